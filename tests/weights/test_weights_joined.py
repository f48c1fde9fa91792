"""Layers that one side keeps in one: of convolutions as of linear layers, of gates, and of adapters that wrap them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from weights_models import equal, randomised, snapshot

from autoadapt.errors import TransferError
from autoadapt.weights import transfer

LAYERS: dict[str, Callable[..., nn.Module]] = {
    "linear": nn.Linear,
    "1x1 of one axis": partial(nn.Conv1d, kernel_size=1),
    "1x1 of two": partial(nn.Conv2d, kernel_size=1),
}


CELLS = {"linear": (3, 4), "1x1 of one axis": (3, 4, 1), "1x1 of two": (3, 4, 1, 1)}


def attention(layer: Callable[..., nn.Module], **rows: int) -> nn.Module:
    inner = nn.ModuleDict({name: layer(4, count) for name, count in rows.items()})
    return nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"attn": inner, "proj": nn.Linear(4, 4)})])})


@pytest.mark.parametrize("kind", LAYERS)
def test_projections_of_any_layer_are_joined_and_split(kind: str) -> None:
    three = randomised(attention(LAYERS[kind], q=4, k=4, v=4), 1)
    one, again = attention(LAYERS[kind], qkv=12), attention(LAYERS[kind], q=4, k=4, v=4)
    assert transfer(three, one, dry_run=True).hint == 'merge="fused"      2 tensors would be joined or split'
    assert transfer(three, one, merge="fused").ok
    rows = [layer.weight for layer in three["blocks"][0]["attn"].values()]
    assert torch.equal(one["blocks"][0]["attn"]["qkv"].weight, torch.cat(rows))
    assert transfer(one, again, merge="fused").ok
    assert equal(snapshot(again), snapshot(three))


def test_projections_that_see_more_than_a_cell_are_not_joined() -> None:
    wide = partial(nn.Conv2d, kernel_size=3)
    report = transfer(attention(wide, q=4, k=4, v=4), attention(wide, qkv=12), merge="fused")
    assert report.source_counts["unexpected"] == 6


@pytest.mark.parametrize(
    ("old", "new"), [("linear", "1x1 of two"), ("1x1 of one axis", "linear"), ("1x1 of two", "linear")]
)
def test_a_linear_layer_and_a_convolution_of_single_cells_are_the_same_where_that_is_asked_for(
    old: str, new: str
) -> None:
    source, model = randomised(attention(LAYERS[old], q=4), 1), attention(LAYERS[new], q=4)
    before = snapshot(model)
    left = transfer(source, model, dry_run=True)
    said = 'a linear layer and a convolution of single cells (shapes "permute")'
    assert [entry.how for entry in left.targets if said in entry.how] == [
        f"{len(CELLS[old])} axes -> {len(CELLS[new])}: {said}"
    ]
    assert equal(snapshot(model), before)
    assert transfer(source, model, shapes="permute").ok
    x = torch.randn(3, 4)
    apply = [net["blocks"][0]["attn"]["q"](x.reshape(CELLS[kind])) for net, kind in ((source, old), (model, new))]
    torch.testing.assert_close(*(found.flatten(1) for found in apply))


def test_linear_projections_become_one_convolution() -> None:
    source, model = randomised(attention(nn.Linear, q=4, k=4, v=4), 1), attention(LAYERS["1x1 of two"], qkv=12)
    assert transfer(source, model, merge="fused", shapes="permute").ok
    rows = [layer.weight for layer in source["blocks"][0]["attn"].values()]
    assert torch.equal(model["blocks"][0]["attn"]["qkv"].weight.flatten(1), torch.cat(rows))


def test_a_transposed_convolution_is_no_linear_layer() -> None:
    report = transfer(
        attention(nn.Linear, q=4), attention(partial(nn.ConvTranspose2d, kernel_size=1), q=4), shapes="permute"
    )
    assert report.source_counts["mismatched"] == 1


class Gated(nn.Module):
    """SwiGLU as xformers has it, and DINOv2 after it: `w3(silu(w1(x)) * w2(x))`, the first two in one layer or two."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        if packed:
            self.w12 = nn.Linear(4, 12)
        else:
            self.w1, self.w2 = nn.Linear(4, 6), nn.Linear(4, 6)
        self.w3 = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, -1) if self.packed else (self.w1(x), self.w2(x))
        found: Tensor = self.w3(nn.functional.silu(gate) * value)
        return found


@pytest.mark.parametrize("packed", [False, True])
def test_gates_in_one_layer_are_split_and_joined_by_policy(packed: bool) -> None:
    source = nn.ModuleDict({"mlp": randomised(Gated(packed), 1), "head": nn.Linear(4, 2)})
    model = nn.ModuleDict({"mlp": Gated(not packed), "head": nn.Linear(4, 2)})
    assert transfer(source, model, dry_run=True).hint.startswith('merge="fused"')
    assert transfer(source, model, merge="fused").ok
    x = torch.randn(3, 4)
    torch.testing.assert_close(model["mlp"](x), source["mlp"](x))


def test_the_first_layer_of_another_kind_is_no_gate() -> None:
    """timm calls the gated layers `fc1_g` and `fc1_x`, and in one layer `fc1`, as that of any perceptron."""
    plain = nn.ModuleDict(
        {"mlp": nn.ModuleDict({"fc1": nn.Linear(4, 12), "fc2": nn.Linear(12, 4)}), "h": nn.Linear(4, 3)}
    )
    gates = {"fc1_g": nn.Linear(4, 6), "fc1_x": nn.Linear(4, 6), "fc2": nn.Linear(6, 4)}
    report = transfer(plain, nn.ModuleDict({"mlp": nn.ModuleDict(gates), "h": nn.Linear(4, 3)}), merge="fused")
    assert not any(entry.bucket == "converted" for entry in report.targets)


def wrapped(states: dict[str, Tensor], *layers: str, front: str = "base_model.model.") -> dict[str, Tensor]:
    """States as PEFT saves them: the layers that it adapts are within its own."""
    found = {}
    for name, value in states.items():
        layer, _, leaf = name.rpartition(".")
        found[f"{front}{layer}.base_layer.{leaf}" if layer.rpartition(".")[2] in layers else front + name] = value
    return found


def test_what_peft_wraps_is_found_within_its_base_layer_and_its_deltas_are_named() -> None:
    source, model = randomised(attention(nn.Linear, q=4, k=4, v=4), 1), attention(nn.Linear, q=4, k=4, v=4)
    state = wrapped(source.state_dict(), "q", "v")
    assert transfer(state, model).ok
    assert equal(snapshot(model), snapshot(source))
    low = {f"base_model.model.blocks.0.attn.q.lora_{side}.default.weight": torch.ones(1, 4) for side in "A"}
    high = {"base_model.model.blocks.0.attn.q.lora_B.default.weight": torch.ones(4, 1)}
    report = transfer({**state, **low, **high}, model)
    deltas = {entry.name: entry.how for entry in report.sources if entry.bucket == "unexpected"}
    assert deltas == dict.fromkeys([*low, *high], "a delta that is not merged")
    assert report.hint == 'merge="lora"      adds the deltas to their weights'


@pytest.mark.parametrize("adapted", [("q", "v"), ("q", "k", "v")])
def test_projections_that_peft_wraps_are_joined(adapted: tuple[str, ...]) -> None:
    source, model = randomised(attention(nn.Linear, q=4, k=4, v=4), 1), attention(nn.Linear, qkv=12)
    state = wrapped(source.state_dict(), *adapted)
    assert transfer(state, model, dry_run=True).hint.startswith('merge="fused"')
    assert transfer(state, model, merge="fused").ok
    rows = [layer.weight for layer in source["blocks"][0]["attn"].values()]
    assert torch.equal(model["blocks"][0]["attn"]["qkv"].weight, torch.cat(rows))


def test_one_projection_that_peft_wraps_is_split() -> None:
    source, model = randomised(attention(nn.Linear, qkv=12), 1), attention(nn.Linear, q=4, k=4, v=4)
    assert transfer(wrapped(source.state_dict(), "qkv"), model, merge="fused").ok
    rows = [layer.weight for layer in model["blocks"][0]["attn"].values()]
    assert torch.equal(torch.cat(rows), source["blocks"][0]["attn"]["qkv"].weight)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ((), 'merge=["lora", "fused"]      adds the deltas to their weights; 2 tensors would be joined or split'),
        ("fused", 'merge=["lora", "fused"]      adds the deltas to their weights'),
        ({"lora": 2.0}, 'merge={"fused": None, "lora": 2.0}      2 tensors would be joined or split'),
    ],
)
def test_projections_with_deltas_are_offered_both_and_what_was_asked_for_stays(asked: Any, hint: str) -> None:
    source = randomised(attention(nn.Linear, q=4, k=4, v=4), 1)
    state = wrapped(source.state_dict(), "q")
    state["base_model.model.blocks.0.attn.q.lora_A.default.weight"] = torch.ones(2, 4)
    state["base_model.model.blocks.0.attn.q.lora_B.default.weight"] = torch.ones(4, 2)
    model = attention(nn.Linear, qkv=12)
    assert transfer(state, model, merge=asked, dry_run=True).hint == hint
    assert transfer(state, model, merge={"fused": None, "lora": 2.0}).ok
    expected = source["blocks"][0]["attn"]["q"].weight + 4
    torch.testing.assert_close(model["blocks"][0]["attn"]["qkv"].weight[:4], expected)


def quantised(state: dict[str, Tensor], *words: str) -> dict[str, Tensor]:
    """States with some projections in eight bits, as LLM.int8 keeps them."""
    found = dict(state)
    for word in words:
        weight = found[f"blocks.0.attn.{word}.weight"]
        largest = weight.abs().amax(1)
        found[f"blocks.0.attn.{word}.weight"] = (weight / largest[:, None] * 127).round().to(torch.int8)
        found[f"blocks.0.attn.{word}.SCB"] = largest
    return found


@pytest.mark.parametrize("words", ["k", "qk", "qkv"])
def test_numbers_of_eight_bits_are_not_joined_with_weights_before_they_are_multiplied(words: str) -> None:
    source, model = randomised(attention(nn.Linear, q=4, k=4, v=4), 1), attention(nn.Linear, qkv=12)
    state, before = quantised(source.state_dict(), *words), snapshot(model)
    report = transfer(state, model, merge="fused")
    assert torch.equal(model["blocks"][0]["attn"]["qkv"].weight, before["blocks.0.attn.qkv.weight"])
    assert not report.ok
    if words == "qkv":
        hint = 'merge=["quantised", "fused"]      3 weights would be multiplied by their scale; '
        assert transfer(state, model, dry_run=True).hint.startswith(hint)
    assert transfer(state, model, merge=["quantised", "fused"]).ok
    rows = torch.cat([layer.weight for layer in source["blocks"][0]["attn"].values()])
    torch.testing.assert_close(model["blocks"][0]["attn"]["qkv"].weight, rows, rtol=0, atol=2e-2)


def test_values_of_other_precision_are_not_rounded_when_they_are_joined() -> None:
    source, model = randomised(attention(nn.Linear, q=4, k=4, v=4), 1), attention(nn.Linear, qkv=12)
    state = {n: v.bfloat16() if n.endswith("q.weight") else v for n, v in source.state_dict().items()}
    assert transfer(state, model, merge="fused").ok
    attn = source["blocks"][0]["attn"]
    assert torch.equal(model["blocks"][0]["attn"]["qkv"].weight[4:8], attn["k"].weight)
    assert torch.equal(model["blocks"][0]["attn"]["qkv"].bias, torch.cat([layer.bias for layer in attn.values()]))


def test_a_delta_of_a_layer_that_is_stored_transposed_is_not_poured_into_its_shape() -> None:
    """GPT-2 keeps weights as `[in, out]`, and its deltas as anybody's, `[out, in]`."""
    states = {"c.weight": torch.zeros(8, 6), "c.lora_A.weight": torch.ones(2, 8), "c.lora_B.weight": torch.ones(6, 2)}
    model = nn.ModuleDict({"c": nn.ParameterDict({"weight": torch.zeros(8, 6)})})
    with pytest.raises(TransferError, match="beside the weight that they change, of its size"):
        transfer(states, model, merge={"lora": 1.0})
    assert not model["c"]["weight"].any()


@pytest.mark.parametrize(("fused", "words"), [("qkv", "q k v"), ("qkv_proj", "q_proj k_proj v_proj"), ("w12", "w1 w2")])
@pytest.mark.parametrize("without", [0, -1])
def test_a_part_of_a_fused_bias_that_has_no_place_is_zero_or_refused(fused: str, words: str, without: int) -> None:
    names = words.split()
    old = randomised(nn.ModuleDict({fused: nn.Linear(4, 4 * len(names))}), 1)
    model = nn.ModuleDict({name: nn.Linear(4, 4, bias=name != names[without]) for name in names})
    before, start = snapshot(model), 4 * names.index(names[without])
    expected, found = rf"zeros for {names[without]}\.bias, .*", f"up to .* in rows {start} to {start + 3}"
    said = rf"{fused}\.bias\n  expected  {expected}\n  found     {found}"
    for dry_run in (True, False):
        with pytest.raises(TransferError, match=said):
            transfer(old, model, merge="fused", dry_run=dry_run)
    assert equal(snapshot(model), before)
    with torch.no_grad():
        old[fused].bias[start : start + 4] = 0
    report = transfer(old, model, merge="fused")
    assert report.ok
    assert report.source_counts == {"converted": 2}
    x = torch.randn(2, 4)
    torch.testing.assert_close(torch.cat([model[name](x) for name in names], 1), old[fused](x))


def test_a_fused_bias_that_has_no_place_at_all_is_left_as_any_other() -> None:
    old = randomised(nn.ModuleDict({"qkv": nn.Linear(4, 12)}), 1)
    model = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in "qkv"})
    report = transfer(old, model, merge="fused", dry_run=True)
    assert report.source_counts == {"converted": 1, "unexpected": 1}
