"""Tensors made of several: attention joined and split, deltas, and the same module stored twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from weights_models import equal, prefixed, randomised, snapshot

from autoadapt.errors import CoverageError, SourceError, TransferError
from autoadapt.weights import transfer
from autoadapt.weights.recipes import find_recipes
from autoadapt.weights.tensor_specs import Spec


def plain(layer: nn.Module) -> nn.Module:
    return layer


# Attention


class Split(nn.Module):
    def __init__(self, bias: bool = True, key: int = 4) -> None:
        super().__init__()
        self.q_proj = nn.Linear(4, 4, bias=bias)
        self.k_proj, self.v_proj = nn.Linear(4, key, bias=bias), nn.Linear(4, key, bias=bias)
        self.out_proj = nn.Linear(4, 4)


class Fused(nn.Module):
    def __init__(self, bias: bool = True, rows: int = 12) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, rows, bias=bias)
        self.out_proj = nn.Linear(4, 4)


def attention(layer: nn.Module) -> nn.Module:
    return nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"attn": layer})]), "head": nn.Linear(4, 2)})


@pytest.mark.parametrize("front", ["", "model."])
def test_three_projections_become_one_where_that_is_asked_for(front: str) -> None:
    source = randomised(attention(Split()), 1)
    state = prefixed(source.state_dict(), front)
    for model in (attention(nn.MultiheadAttention(4, 2)), attention(Fused())):
        before = snapshot(model)
        untouched = transfer(state, model, dry_run=True)
        assert untouched.hint == 'merge="fused"      2 tensors would be joined or split'
        assert equal(snapshot(model), before)
        report = transfer(state, model, merge="fused")
        assert report.ok
        split = source["layers"][0]["attn"]
        expected = torch.cat([split.q_proj.weight, split.k_proj.weight, split.v_proj.weight])
        found = {k: v for k, v in model.state_dict().items() if k.endswith(("in_proj_weight", "qkv.weight"))}
        assert torch.equal(*found.values(), expected)
        assert report.source_counts == {"converted": 6, "loaded": 4}
        assert report.compared == 10


@pytest.mark.parametrize(("key", "rows"), [(4, 12), (2, 8)])
def test_one_projection_becomes_three_with_the_rows_of_the_model(key: int, rows: int) -> None:
    source = randomised(attention(Fused(rows=rows)), 1)
    model = attention(Split(key=key))
    report = transfer(source, model, merge=["fused"])
    assert report.ok
    assert report.share == 1
    qkv, attn = source["layers"][0]["attn"].qkv, model["layers"][0]["attn"]
    assert torch.equal(torch.cat([attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight]), qkv.weight)
    assert torch.equal(torch.cat([attn.q_proj.bias, attn.k_proj.bias, attn.v_proj.bias]), qkv.bias)
    assert sum(e.bucket == "converted" for e in report.sources) == 2


def test_a_bias_that_one_side_alone_has_is_zero() -> None:
    source = randomised(attention(Split(bias=False)), 1)
    model = randomised(attention(Fused()), 2)
    report = transfer(source, model, merge="fused")
    assert report.ok
    assert not model["layers"][0]["attn"].qkv.bias.any()
    back = randomised(attention(Split()), 3)
    assert transfer(randomised(attention(Fused(bias=False)), 4), back, merge="fused").ok
    assert not back["layers"][0]["attn"].k_proj.bias.any()
    state = randomised(attention(Split()), 5).state_dict()
    del state["layers.0.attn.k_proj.bias"]  # as in Whisper
    report = transfer(state, model, merge="fused")
    bias = model["layers"][0]["attn"].qkv.bias
    assert torch.equal(bias[:4], state["layers.0.attn.q_proj.bias"])
    assert not bias[4:8].any()
    assert torch.equal(bias[8:], state["layers.0.attn.v_proj.bias"])
    assert next(e for e in report.targets if e.name.endswith("qkv.bias")).how.endswith("zero for k_proj")


def test_a_bias_that_the_model_has_no_place_for_is_not_lost_in_silence() -> None:
    report = transfer(attention(Split()), attention(Fused(bias=False)), merge="fused")
    assert not report.ok
    assert sum(e.bucket == "unexpected" for e in report.sources) == 3


def parts(shapes, dtype="float32"):
    return [Spec(f"{word}.weight", shape, dtype) for word, shape in shapes.items()]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (parts({"q": (4, 4), "k": (4, 6), "v": (4, 4)}), parts({"qkv": (12, 4)})),
        (parts({"q": (4, 4), "k": (4, 4)}) + parts({"v": (4, 4)}, "int8"), parts({"qkv": (12, 4)})),
        (parts({"q": (4, 4), "k": (4, 4)}), parts({"qkv": (12, 4)})),
        (parts({"qkv": (12, 4)}), parts({"q": (4, 4), "k": (4, 4), "v": (2, 4)})),
        (parts({"qkv": (12, 4)}), parts({"q": (4, 4), "k": (8, 4)})),
    ],
)
def test_rows_that_are_no_whole_layers_are_neither_joined_nor_split(old, new):
    assert find_recipes(old, new, {"fused": None}) == []


def test_gate_and_up_are_joined_and_split() -> None:
    one = nn.ModuleDict({"mlp": nn.ModuleDict({"gate_up_proj": nn.Linear(4, 12, bias=False)}), "h": nn.Linear(4, 4)})
    words = {"gate_proj": nn.Linear(4, 6, bias=False), "up_proj": nn.Linear(4, 6, bias=False)}
    two = nn.ModuleDict({"mlp": nn.ModuleDict(words), "h": nn.Linear(4, 4)})
    randomised(two, 1)
    assert transfer(two, one, merge="fused").ok
    assert torch.equal(one["mlp"]["gate_up_proj"].weight[6:], two["mlp"]["up_proj"].weight)
    again = {"mlp": nn.ModuleDict({w: nn.Linear(4, 6, bias=False) for w in words}), "h": nn.Linear(4, 4)}
    assert transfer(one, nn.ModuleDict(again), merge="fused").ok
    assert torch.equal(again["mlp"]["gate_proj"].weight, two["mlp"]["gate_proj"].weight)


def attention_of(**rows: int) -> nn.Module:
    return nn.ModuleDict({"attn": nn.ModuleDict({w: nn.Linear(4, n) for w, n in rows.items()}), "h": nn.Linear(4, 4)})


@pytest.mark.parametrize("whole", [{"q": 4, "k": 4, "v": 4}, {"qkv": 12}])
def test_keys_and_values_in_one_layer_are_joined_and_split(whole: dict[str, int]) -> None:
    source, model = randomised(attention_of(**whole), 1), attention_of(q=4, kv=8)
    assert transfer(source, model, dry_run=True).hint.startswith('merge="fused"')
    assert transfer(source, model, merge="fused").ok
    rows = torch.cat([layer.weight for layer in source["attn"].values()])
    assert torch.equal(torch.cat([model["attn"]["q"].weight, model["attn"]["kv"].weight]), rows)
    again = attention_of(**whole)
    assert transfer(model, again, merge="fused").ok
    assert equal(snapshot(again), snapshot(source))


# Deltas


def deltas(front: str = "base_model.model.", base: str = "base_layer.", adapter: str = "default.") -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        f"{front}fc.{base}weight": torch.rand(4, 6),
        f"{front}fc.{base}bias": torch.rand(4),
        f"{front}fc.lora_A.{adapter}weight": torch.rand(2, 6),
        f"{front}fc.lora_B.{adapter}weight": torch.rand(4, 2),
        f"{front}head.weight": torch.rand(3, 4),
        f"{front}head.bias": torch.rand(3),
    }


def model_of_deltas() -> nn.Module:
    return nn.ModuleDict({"fc": nn.Linear(6, 4), "head": nn.Linear(4, 3)})


def test_deltas_are_named_as_what_is_not_merged() -> None:
    state, model = deltas(), model_of_deltas()
    report = transfer(state, model)
    assert torch.equal(model["fc"].weight, state["base_model.model.fc.base_layer.weight"])
    assert [e.how for e in report.sources if e.bucket == "unexpected"] == ["a delta that is not merged"] * 2
    assert report.hint.startswith('merge="lora"')
    assert not report.ok


@pytest.mark.parametrize("state", [deltas(), deltas("", "", "")], ids=["peft", "plain"])
def test_deltas_are_merged_with_their_scale(state: dict[str, Tensor]) -> None:
    model = model_of_deltas()
    report = transfer(state, model, merge={"lora": 2.0})
    weight, _, low, high, *_ = state.values()
    torch.testing.assert_close(model["fc"].weight, weight + 2 * high @ low)
    assert report.ok
    assert next(e for e in report.targets if e.name == "fc.weight").how == "LoRA merged: W + 2 * B A"


def test_the_scale_of_deltas_is_read_from_the_config_or_asked_for(tmp_path: Path) -> None:
    save_file(deltas(), tmp_path / "model.safetensors")
    with pytest.raises(TransferError) as caught:
        transfer(tmp_path / "model.safetensors", model_of_deltas(), merge="lora")
    assert 'try       merge={"lora": 2.0}' in str(caught.value)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 0, "lora_alpha": 6}))
    with pytest.raises(TransferError, match="the scale of the deltas is not known"):
        transfer(tmp_path / "model.safetensors", model_of_deltas(), merge="lora")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 6}))
    model = model_of_deltas()
    report = transfer(tmp_path, model, merge="lora")
    assert next(e for e in report.targets if e.name == "fc.weight").how == "LoRA merged: W + 3 * B A"


def test_an_unknown_kind_of_merge_is_refused() -> None:
    with pytest.raises(TransferError, match='merge="lora"'):
        transfer(deltas(), model_of_deltas(), merge="lore")


# The same module twice


@pytest.mark.parametrize("kind", ["one storage", "equal bytes", "a file"])
def test_a_module_stored_under_two_names_is_no_ambiguity(kind: str, tmp_path: Path) -> None:
    encoder = randomised(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), 1)
    own = encoder.state_dict()
    copies = own if kind == "one storage" else {name: value.clone() for name, value in own.items()}
    state = {**prefixed(own, "encoder."), **prefixed(copies, "backbone."), "head.weight": torch.ones(3, 5)}
    model = randomised(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), 2)
    if kind == "a file":
        save_file(state, tmp_path / "w.safetensors")
    report = transfer(tmp_path / "w.safetensors" if kind == "a file" else state, model)
    assert equal(snapshot(model), snapshot(encoder))
    left = [e for e in report.sources if e.bucket == "unexpected" and e.name != "head.weight"]
    assert {e.how for e in left} == {f"the same values as {e.name.replace('backbone', 'encoder')}" for e in left}
    assert all(e.expected for e in left)
    assert 'prefix "backbone." removed fits as well, with the same values' in report.remarks


def test_two_modules_of_different_values_stay_ambiguous() -> None:
    a, b = (randomised(nn.Linear(3, 4), seed).state_dict() for seed in (1, 2))
    with pytest.raises(TransferError, match="two prefixes fit equally well"):
        transfer({**prefixed(a, "encoder."), **prefixed(b, "trunk.")}, nn.Linear(3, 4))


def test_a_model_that_has_one_module_under_two_names_takes_it_once() -> None:
    shared = nn.Linear(3, 4)
    model = nn.ModuleDict({"encoder": shared, "trunk": shared, "head": nn.Linear(2, 2)})
    source = randomised(nn.Linear(3, 4), 1)
    report = transfer({**prefixed(source.state_dict(), "body."), **model["head"].state_dict(prefix="head.")}, model)
    assert report.ok
    assert torch.equal(shared.weight, source.weight)


def test_what_is_excluded_is_no_part_of_anything() -> None:
    source, model = attention(Split()), attention(Fused())
    report = transfer(source, model, merge="fused", exclude=["layers.0.attn.q_proj"])
    assert report.source_counts == {"excluded": 2, "unexpected": 4, "loaded": 4}


def test_of_a_layer_that_is_split_the_part_that_stays_away_is_told():
    report = transfer(randomised(attention(Fused()), 1), attention(Split()), merge="fused", exclude=["*.v_proj.*"])
    assert report.source_counts == {"excluded": 2, "loaded": 4}
    assert {e.how for e in report.targets if e.bucket == "missing"} == {"excluded"}


def test_deltas_alone_are_a_total_miss_that_says_so() -> None:
    state = {name: value for name, value in deltas().items() if "lora" in name}
    with pytest.raises(TransferError, match="2 deltas without the weights they belong to"):
        transfer(state, model_of_deltas())


def test_an_adapter_beside_the_states_of_its_base_model_is_merged_as_the_remedy_says(tmp_path: Path) -> None:
    adapter = {name: value for name, value in deltas().items() if "lora" in name}
    save_file(adapter, tmp_path / "adapter_model.safetensors")
    for attempt in ({}, {"merge": {"lora": 2.0}}):
        with pytest.raises(TransferError) as caught:
            transfer(adapter, model_of_deltas(), **attempt)
        assert "2 deltas without the weights they belong to" in str(caught.value)
        assert 'transfer({**base, **adapter}, model, merge={"lora": 2.0})' in str(caught.value)
    with pytest.raises(SourceError, match="an adapter alone, adapter_model"):
        transfer(tmp_path, model_of_deltas())
    base, model = randomised(model_of_deltas(), 3).state_dict(), model_of_deltas()
    assert transfer({**base, **adapter}, model, merge={"lora": 2.0}).ok
    low, high = adapter.values()
    torch.testing.assert_close(model["fc"].weight, base["fc.weight"] + 2 * high @ low)


def test_deltas_whose_weight_is_not_there_are_not_offered_to_be_merged() -> None:
    state = {name: value for name, value in deltas().items() if "fc.base_layer" not in name}
    assert transfer(state, model_of_deltas()).hint == ""


def test_deltas_with_a_magnitude_are_not_merged_as_if_they_had_none() -> None:
    state = deltas() | {"base_model.model.fc.lora_magnitude_vector.default.weight": torch.ones(4)}
    with pytest.raises(TransferError, match="3 deltas cannot be merged"):
        transfer(state, model_of_deltas(), merge={"lora": 2.0})
    report = transfer(state, model_of_deltas())
    assert [e.how for e in report.sources if e.bucket == "unexpected"] == ["a delta that is not merged"] * 3
    assert report.hint == ""


def lora(layer, *adapters):
    """A layer's state beside the deltas of some adapters."""
    state = {f"a.{name}": tensor for name, tensor in layer.state_dict().items()}
    for adapter in adapters:
        state |= {f"a.lora_A.{adapter}.weight": torch.randn(2, 6), f"a.lora_B.{adapter}.weight": torch.randn(4, 2)}
    return state


def test_of_several_adapters_at_a_layer_one_has_to_be_chosen():
    model = nn.ModuleDict({"a": nn.Linear(6, 4)})
    state = lora(nn.Linear(6, 4), "default", "other")
    with pytest.raises(TransferError, match="2 adapters"):
        transfer(state, model, merge={"lora": 2.0})
    transfer(state, model, merge={"lora": 2.0}, exclude=["*.other.*"])
    delta = state["a.lora_B.default.weight"] @ state["a.lora_A.default.weight"]
    assert torch.allclose(model["a"].weight, state["a.weight"] + 2 * delta)


@pytest.mark.parametrize(
    "deltas",
    [
        {"a.lora_down.weight": (2, 6), "a.lora_up.weight": (4, 2)},
        {"a.lora_A": (2, 6), "a.lora_B": (4, 2)},
        {"a.lora_embedding_A.default": (2, 6), "a.lora_embedding_B.default": (4, 2)},
        {"b.lora_A.default.weight": (2, 6), "b.lora_B.default.weight": (4, 2)},
        {"a.lora_A.other.weight": (), "a.lora_B.other.weight": (4, 2)},
        {"a.lora_A.other.weight": (2, 6), "a.lora_B.other.weight": ()},
    ],
)
def test_deltas_that_were_asked_for_and_cannot_be_merged_are_refused(deltas):
    model = nn.ModuleDict({"a": nn.Linear(6, 4)})
    before = model["a"].weight.clone()
    state = lora(nn.Linear(6, 4)) | {name: torch.randn(shape) for name, shape in deltas.items()}
    with pytest.raises(TransferError, match="deltas cannot be merged"):
        transfer(state, model, merge={"lora": 2.0})
    assert torch.equal(model["a"].weight, before)


def test_a_zero_point_of_another_name_is_not_left_out_of_the_product():
    model = nn.ModuleDict({"a": nn.Linear(6, 4, bias=False)})
    state = {
        "a.weight": torch.ones(4, 6, dtype=torch.int8),
        "a.weight_scale": torch.ones(4),
        "a.zero_point": torch.ones(4),
    }
    with pytest.raises(CoverageError):
        transfer(state, model, merge="quantised")


@pytest.mark.parametrize("base", ["", "base_layer."])
def test_deltas_of_a_quantised_layer_are_added_to_what_its_numbers_stand_for(base: str) -> None:
    numbers, largest = torch.randint(-127, 128, (4, 6), dtype=torch.int8), torch.rand(4) + 1
    state = lora(nn.Linear(6, 4), "default")
    del state["a.weight"]
    state |= {f"a.{base}weight": numbers, f"a.{base}SCB": largest}
    model = nn.ModuleDict({"a": nn.Linear(6, 4)})
    report = transfer(state, model, merge={"lora": 2.0, "quantised": None})
    delta = state["a.lora_B.default.weight"] @ state["a.lora_A.default.weight"]
    torch.testing.assert_close(model["a"].weight, numbers * largest[:, None] / 127 + 2 * delta)
    assert report.ok
    assert report.source_counts == {"converted": 4, "loaded": 1}
    told = next(e.how for e in report.targets if e.name == "a.weight")
    assert told.startswith("dequantised: int8 times SCB / 127; LoRA merged: W + 2 * B A")
    alone = transfer(state, model, merge={"lora": 2.0}, min_coverage=0)
    assert not alone.ok


@pytest.mark.parametrize("excluded", [(), ("*.other.*",)])
def test_projections_are_joined_with_the_deltas_of_each(excluded: tuple[str, ...]) -> None:
    source = randomised(Split(), 1)
    state = source.state_dict()
    for adapter in ("default", "other") if excluded else ("default",):
        for word in ("q_proj", "v_proj"):
            state[f"{word}.lora_A.{adapter}.weight"] = torch.randn(2, 4)
            state[f"{word}.lora_B.{adapter}.weight"] = torch.randn(4, 2)
    model = Fused()
    assert transfer(state, model, merge={"lora": 2.0, "fused": None}, exclude=excluded).ok
    whole = [getattr(source, word).weight.clone() for word in ("q_proj", "k_proj", "v_proj")]
    for at, word in ((0, "q_proj"), (2, "v_proj")):
        whole[at] += 2 * state[f"{word}.lora_B.default.weight"] @ state[f"{word}.lora_A.default.weight"]
    torch.testing.assert_close(model.qkv.weight, torch.cat(whole))
