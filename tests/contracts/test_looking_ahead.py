"""Whether tokens depend on those behind them, and what is said where old and new modules differ in that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import autoadapt as aa

TOKENS = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))


class Reading(nn.Module):
    """Token ids or vectors in a transformer that looks ahead or not."""

    def __init__(self, width: int, *, causal: bool) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.embed, self.causal = nn.Linear(5, width), causal
        self.layer = nn.TransformerEncoderLayer(width, 2, width, batch_first=True, dropout=0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        shown = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        read: torch.Tensor = self.layer(self.embed(tokens), src_mask=shown if self.causal else None)
        return read


@pytest.mark.parametrize(
    ("module", "ahead"),
    [
        (Reading(6, causal=True), False),
        (Reading(6, causal=False), True),
        (nn.LSTM(5, 6, batch_first=True), False),
        (nn.LSTM(5, 6, batch_first=True, bidirectional=True), True),
        (nn.Linear(5, 6), False),
    ],
)
def test_it_is_told_by_changing_tokens(module: nn.Module, ahead: bool) -> None:
    assert aa.capture(module.eval(), TOKENS).looks_ahead is ahead


class Turned(nn.Module):
    """The same of tokens first, `[N, B, C]`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.module(tokens.transpose(0, 1)).transpose(0, 1)
        return made


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("module", "ahead"),
    [
        (nn.LSTM(5, 6), False),
        (nn.LSTM(5, 6, bidirectional=True), True),
        (nn.GRU(5, 6, num_layers=2), False),
        (Turned(Reading(6, causal=True)), False),
        (Turned(Reading(6, causal=False)), True),
        (nn.TransformerEncoderLayer(5, 1, 8, dropout=0), True),
    ],
)
@pytest.mark.parametrize("shape", [(8, 2, 5), (7, 3, 5)])
def test_it_is_told_of_tokens_that_come_first(module: nn.Module, ahead: bool, shape: tuple[int, ...]) -> None:
    seen = aa.capture(module.eval(), torch.randn(shape))
    assert str(seen.inputs.leaves[0]) == "f32[N, B, 5]"
    assert seen.looks_ahead is ahead


class Mixing(nn.Module):
    """Vectors of tokens by a mean over others, whose weights are given."""

    def __init__(self, weights: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.embed, self.weights = nn.Linear(5, 6), weights

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        weights = self.weights(torch.arange(tokens.shape[1])).float().expand(len(tokens), -1, -1)
        weights = weights if mask is None else weights * mask[:, None]
        mixed: torch.Tensor = weights / weights.sum(2, keepdim=True).clamp(min=1) @ self.embed(tokens)
        return mixed


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("weights", "ahead"),
    [
        (lambda at: (at == at[-1])[None] | (at == at[:, None]), True),
        (lambda at: (at == at[-2])[None] | (at == at[:, None]), True),
        (lambda at: at // 4 == at[:, None] // 4, True),
        (lambda at: at // 2 == at[:, None] // 2, True),
        (lambda at: at == at[:, None] + 1, True),
        (lambda at: at <= at[:, None], False),
        (lambda at: (at == 0)[None] | (at == at[:, None]), False),
    ],
    ids=["the last", "the last but one", "blocks of four", "blocks of two", "the next", "those before", "the first"],
)
@pytest.mark.parametrize("count", [8, 9])
def test_wherever_it_is_that_tokens_look(weights: Callable[[Tensor], Tensor], ahead: bool, count: int) -> None:
    assert aa.capture(Mixing(weights).eval(), torch.randn(2, count, 5)).looks_ahead is ahead


def test_it_is_told_whatever_a_mask_hides() -> None:
    module = Mixing(lambda at: at >= 0 * at[:, None]).eval()
    assert aa.capture(module, {"tokens": TOKENS, "mask": torch.ones(2, 8, dtype=torch.long)}).looks_ahead is True
    mask = torch.tensor([[1] + [0] * 7] * 2)
    assert aa.capture(module, {"tokens": TOKENS, "mask": mask}).looks_ahead is True


def test_images_and_points_have_nothing_behind_them() -> None:
    assert aa.capture(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 16, 16)).looks_ahead is None
    assert aa.capture(nn.Linear(3, 4), torch.randn(2, 64, 3)).looks_ahead is None


def test_modules_of_tokens_first_that_differ_in_it_serve_each_other_with_a_remark() -> None:
    plan = aa.adapt(nn.LSTM(5, 6, bidirectional=True), like=nn.LSTM(5, 8), inputs=torch.randn(8, 2, 5)).plan
    assert any("behind" in remark for remark in plan.remarks)
    assert not aa.adapt(nn.GRU(5, 6), like=nn.GRU(5, 8), inputs=torch.randn(8, 2, 5)).plan.remarks


def test_modules_that_differ_in_it_serve_each_other_with_a_remark() -> None:
    def remarks(new: bool, old: bool) -> str:
        net = aa.adapt(Reading(8, causal=new), like=Reading(6, causal=old), inputs=TOKENS)
        return "; ".join(net.plan.remarks)

    assert "depend on those behind them" in remarks(new=False, old=True)
    assert "depend on none behind them" in remarks(new=True, old=False)
    assert remarks(new=True, old=True) == remarks(new=False, old=False) == ""


def test_it_is_kept_in_a_file() -> None:
    seen = aa.capture(Reading(6, causal=True).eval(), TOKENS)
    assert aa.Signature.model_validate_json(seen.model_dump_json()).looks_ahead is False
