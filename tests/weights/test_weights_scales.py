"""Weights beside a scale are multiplied with it where that is asked; BEiT's biases go where the model has them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from weights_models import equal, snapshot

from autoadapt.errors import TransferError
from autoadapt.weights import transfer

ROWS, COLUMNS = 200, 150
TRUE = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))


def _int8() -> dict[str, Tensor]:
    largest = TRUE.abs().amax(1)
    return {"weight": (TRUE / largest[:, None] * 127).round().to(torch.int8), "SCB": largest}


def _rows(shape: tuple[int, ...], zero: int = 0) -> dict[str, Tensor]:
    scale = (TRUE.abs().amax(1) / 100).reshape(shape)
    numbers = (TRUE / scale.reshape(ROWS, 1)).round() + zero
    beside = {"weight_zero_point": torch.full(shape, zero, dtype=torch.int8)} if zero else {}
    return {"weight": numbers.to(torch.int8), "weight_scale": scale, **beside}


def _tensor() -> dict[str, Tensor]:
    scale = TRUE.abs().amax() / 400
    return {"weight": (TRUE / scale).to(torch.float8_e4m3fn), "weight_scale": scale}


def _blocks() -> dict[str, Tensor]:
    scale = torch.tensor([[0.01, 0.02], [0.03, 0.04]])
    whole = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:ROWS, :COLUMNS]
    return {"weight": (TRUE / whole).to(torch.float8_e4m3fn), "weight_scale_inv": scale}


SCHEMES = {
    "LLM.int8": _int8(),
    "rows": _rows((ROWS, 1)),
    "rows in a vector, off zero": _rows((ROWS,), 3),
    "a tensor of fp8": _tensor(),
    "blocks of fp8": _blocks(),
}


def _layer() -> nn.Module:
    return nn.ModuleDict({"fc": nn.Linear(COLUMNS, ROWS)})


def _state(beside: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"fc.{name}": value for name, value in beside.items()} | {"fc.bias": torch.ones(ROWS)}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_weight_beside_its_scale_is_multiplied_where_that_is_asked(scheme: str) -> None:
    model = _layer()
    report = transfer(_state(SCHEMES[scheme]), model, merge="quantised")
    assert report.ok
    assert {entry.bucket for entry in report.sources} == {"converted", "loaded"}
    error = (model.fc.weight - TRUE).abs().max() / TRUE.abs().max()
    assert error < (0.07 if "fp8" in scheme else 0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_unasked_it_is_left_and_the_hint_says_what_to_ask_for(scheme: str) -> None:
    report = transfer(_state(SCHEMES[scheme]), _layer())
    assert not report.ok
    assert report.hint == 'merge="quantised"      1 weights would be multiplied by their scale'


def test_what_is_packed_or_of_an_unknown_scheme_stays_mismatched() -> None:
    for beside in (
        {"weight": torch.ones(ROWS * COLUMNS // 2, 1, dtype=torch.uint8), "weight.absmax": torch.ones(9)},
        {"weight": torch.ones(ROWS, COLUMNS, dtype=torch.int8), "scale": torch.ones(ROWS)},
        {"weight": torch.ones(ROWS, COLUMNS, dtype=torch.int8), "weight_scale": torch.ones(ROWS, 3)},
    ):
        model = _layer()
        before = model.fc.weight.detach().clone()
        report = transfer(_state(beside), model, merge="quantised")
        assert next(entry for entry in report.sources if entry.name == "fc.weight").bucket == "mismatched"
        assert torch.equal(model.fc.weight, before)
    with pytest.raises(TransferError, match='merge="quantised"'):
        transfer({}, _layer(), merge="quantized")


class _Fused(nn.Module):
    """Attention with one layer for queries, keys and values, with their biases in it or, as BEiT, beside it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.heads, self.kind = 2, kind
        self.proj = nn.Linear(4, 4)
        if kind == "apart":
            self.query, self.key, self.value = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
            return
        self.qkv = nn.Linear(4, 12, bias=kind == "inside")
        if kind == "beside":
            self.q_bias, self.v_bias = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(4))

    def forward(self, x_BNC: Tensor) -> Tensor:
        if self.kind == "apart":
            found = torch.cat([self.query(x_BNC), self.key(x_BNC), self.value(x_BNC)], -1)
        else:
            found = self.qkv(x_BNC)
        if self.kind == "beside":
            found = found + torch.cat([self.q_bias, torch.zeros(4), self.v_bias])
        query, key, value = found.unflatten(-1, (3, self.heads, 2)).permute(2, 0, 3, 1, 4)
        return self.proj(nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("new", ["inside", "beside", "apart"])
@pytest.mark.parametrize("old", ["inside", "beside", "apart"])
def test_the_biases_of_queries_and_values_go_where_the_model_has_them(old: str, new: str) -> None:
    source, model = nn.ModuleDict({"attn": _Fused(old)}), nn.ModuleDict({"attn": _Fused(new)})
    report = transfer(source.state_dict(), model, merge="fused")
    assert not [entry.name for entry in report.targets if entry.bucket == "missing"]
    x_BNC = torch.rand(2, 5, 4)
    torch.testing.assert_close(model.attn(x_BNC), source.attn(x_BNC))


@pytest.mark.parametrize("layout", [0, 1, 2, 3])
def test_bytes_that_lie_in_tiles_are_refused_and_nothing_is_written(layout: int) -> None:
    """bitsandbytes says so beside the weight: 0 is row by row, the others are tiles for tensor cores."""
    weight = torch.linspace(-1, 1, 16).reshape(4, 4)
    largest = weight.abs().amax(1)
    states = {
        "0.weight": (weight / largest[:, None] * 127).round().to(torch.int8),
        "0.SCB": largest,
        "0.weight_format": torch.tensor(layout, dtype=torch.uint8),
        "0.bias": torch.ones(4),
    }
    model = nn.Sequential(nn.Linear(4, 4))
    before = snapshot(model)
    if layout == 0:
        assert transfer(states, model, merge="quantised").ok
        torch.testing.assert_close(model[0].weight.detach(), weight, rtol=0, atol=1e-2)
        return
    with pytest.raises(TransferError, match=rf"weight_format {layout}, tiles of it"):
        transfer(states, model, merge="quantised")
    assert equal(snapshot(model), before)
