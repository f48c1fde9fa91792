"""Numbers of other kinds: what is no weight never becomes one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from weights_models import equal, snapshot

from autoadapt.errors import TransferError
from autoadapt.weights import transfer

BIAS = {"fc.bias": torch.ones(4)}


def layer() -> nn.Module:
    return nn.ModuleDict({"fc": nn.Linear(8, 4)})


SCHEMES: dict[str, tuple[dict[str, Tensor], str]] = {
    "int8 with SCB": (
        {"fc.weight": torch.ones(4, 8, dtype=torch.int8), "fc.SCB": torch.ones(4)},
        "int8 of a quantised layer (LLM.int8, SCB) cannot become float32",
    ),
    "fp8 with a scale": (
        {"fc.weight": torch.ones(4, 8).to(torch.float8_e4m3fn), "fc.weight_scale": torch.tensor(0.5)},
        "float8_e4m3fn of a quantised layer (weight_scale) cannot become float32",
    ),
    "4 bit with absmax": (
        {"fc.weight": torch.ones(16, 1, dtype=torch.uint8), "fc.weight.absmax": torch.ones(1)},
        "uint8 of a quantised layer (bitsandbytes, absmax) cannot become float32",
    ),
    "int32 alone": ({"fc.weight": torch.ones(4, 8, dtype=torch.int32)}, "int32 cannot become float32"),
    "uint8 alone": ({"fc.weight": torch.ones(4, 8, dtype=torch.uint8)}, "uint8 cannot become float32"),
    "bool": ({"fc.weight": torch.ones(4, 8, dtype=torch.bool)}, "bool cannot become float32"),
    "fp8 alone": ({"fc.weight": torch.ones(4, 8).to(torch.float8_e5m2)}, "float8_e5m2 cannot become float32"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_quantised_tensor_never_becomes_a_float_weight(scheme: str) -> None:
    state, reason = SCHEMES[scheme]
    model = layer()
    before = model.fc.weight.detach().clone()
    report = transfer({**state, **BIAS}, model)
    entry = next(e for e in report.sources if e.name == "fc.weight")
    assert (entry.bucket, entry.how) == ("mismatched", reason)
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.fc.bias, torch.ones(4))
    assert not report.ok


def test_float_weights_are_not_rounded_to_integers_or_eight_bits() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(4, dtype=torch.int8), requires_grad=False)
    model.other = nn.Parameter(torch.ones(4).to(torch.float8_e4m3fn), requires_grad=False)
    model.third = nn.Parameter(torch.ones(4))
    report = transfer({"weight": torch.rand(4), "other": torch.rand(4), "third": torch.rand(4)}, model)
    assert [e.bucket for e in report.sources] == ["mismatched", "mismatched", "loaded"]


def test_a_quantised_model_takes_the_tensors_of_its_own_kind() -> None:
    source, model = nn.Module(), nn.Module()
    for module, value in ((source, 3), (model, 0)):
        module.weight = nn.Parameter(torch.full((4, 8), value, dtype=torch.int8), requires_grad=False)
        module.SCB = nn.Parameter(torch.full((4,), float(value)))
    assert transfer(source, model).ok
    assert equal(snapshot(model), snapshot(source))


@pytest.mark.parametrize(
    ("old", "new", "loads"),
    [
        (torch.int64, torch.int32, True),
        (torch.int32, torch.int64, True),
        (torch.int8, torch.int16, True),
        (torch.int16, torch.int8, False),
        (torch.bool, torch.int64, True),
        (torch.int64, torch.float32, True),
        (torch.bool, torch.float32, True),
        (torch.int64, torch.int8, False),
        (torch.uint8, torch.int8, False),
        (torch.int8, torch.float32, False),
        (torch.float32, torch.complex64, True),
        (torch.complex64, torch.float32, False),
        (torch.float64, torch.float16, True),
    ],
)
def test_a_buffer_of_counts_changes_its_dtype_where_no_value_can_be_lost(
    old: torch.dtype, new: torch.dtype, loads: bool
) -> None:
    model = nn.Linear(1, 1)
    model.register_buffer("table", torch.zeros(3, dtype=new))
    report = transfer({**model.state_dict(), "table": torch.ones(3, dtype=old)}, model)
    assert report.ok is loads
    assert bool((model.table == (1 if loads else 0)).all())


def test_packed_layers_are_named_by_their_scheme() -> None:
    packed = {"fc.qweight": torch.ones(1, 4, dtype=torch.int32), "fc.qzeros": torch.ones(1, 1, dtype=torch.int32)}
    report = transfer({**packed, "fc.scales": torch.ones(1, 4), **BIAS}, layer())
    assert {e.how for e in report.sources if e.bucket == "unexpected"} == {"of a quantised layer (GPTQ or AWQ, qzeros)"}


@pytest.mark.parametrize("kind", ["plain", "scaled", "rows"])
def test_a_parameter_that_would_become_infinite_in_half_precision_is_refused_and_nothing_is_written(kind: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).half()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state: dict[str, Tensor] = {name: value.float() + 1 for name, value in before.items()}
    if kind == "scaled":
        state |= {"1.weight": torch.full((2, 3), 100, dtype=torch.int8), "1.weight_scale": torch.tensor(1e3)}
    else:
        state["1.weight"] = torch.full((2 if kind == "plain" else 4, 3), 1e5)
    with pytest.raises(TransferError, match=r"values would become infinite[\s\S]*values that float16 can hold"):
        transfer(state, model, merge="quantised", shapes="slice")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_infinite_in_the_checkpoint_or_a_buffer_is_loaded_with_a_remark() -> None:
    model = nn.Sequential(nn.Linear(1, 1)).half()
    model.register_buffer("mask", torch.zeros(2).half())
    state = {"0.weight": torch.full((1, 1), torch.inf), "0.bias": torch.zeros(1), "mask": torch.tensor([0, -1e9])}
    report = transfer(state, model)
    assert "NaN or infinity in 0.weight, mask" in report.remarks
    assert model.mask.tolist() == [0, -torch.inf]


def test_a_delta_that_half_precision_cannot_hold_is_refused() -> None:
    state = {"a.weight": torch.ones(2, 2), "a.lora_A.weight": torch.ones(1, 2), "a.lora_B.weight": torch.ones(2, 1)}
    state = {name: value.half() * 300 for name, value in state.items()}
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False)}).half()
    with pytest.raises(TransferError, match="up to 90300"):
        transfer(state, model, merge={"lora": 1.0})
