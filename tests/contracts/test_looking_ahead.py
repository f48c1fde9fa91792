"""Whether tokens depend on those behind them, and what is said where old and new modules differ in that."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
def test_it_is_told_by_changing_one_token(module: nn.Module, ahead: bool) -> None:
    assert aa.capture(module.eval(), TOKENS).looks_ahead is ahead


def test_images_and_points_have_nothing_behind_them() -> None:
    assert aa.capture(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 16, 16)).looks_ahead is None
    assert aa.capture(nn.Linear(3, 4), torch.randn(2, 64, 3)).looks_ahead is None


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
