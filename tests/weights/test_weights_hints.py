"""Hints: names that differ by a rule are told the rule, and nothing that is no rule is offered."""

from __future__ import annotations

import random
import re
import time

import pytest
import torch
from torch import Tensor, nn
from weights_models import equal, prefixed, randomised, snapshot

from autoadapt.errors import CoverageError, TransferError
from autoadapt.weights import Transfer, transfer
from autoadapt.weights.respelling import respellings
from autoadapt.weights.tensor_specs import Spec


class Block(nn.Module):
    """An encoder block as the field writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.query, self.value = nn.Linear(4, 4), nn.Linear(4, 4)
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 4)


def network() -> nn.Module:
    return nn.ModuleDict({"blocks": nn.ModuleList([Block(), Block()]), "head": nn.Linear(4, 3)})


SPELLINGS = {
    "gamma and beta": ([(r"norm(\d)\.weight", r"norm\1.gamma"), (r"norm(\d)\.bias", r"norm\1.beta")], 8),
    "linear1 and linear2": ([(r"\.fc(\d)\.", r".linear\1.")], 8),
    "q_bias": ([(r"query\.bias", "q_bias"), (r"value\.bias", "v_bias")], 4),
    "all at once": ([(r"\.fc(\d)\.", r".linear\1."), (r"(norm\d)\.bias", r"\1.beta"), (r"query\.bias", "q_bias")], 14),
    "one in the other": ([(r"^blocks\.", "layers."), (r"\.fc(\d)\.", r".linear\1.")], 24),
}


def respelt(state: dict[str, Tensor], rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    for old, new in rules:
        state = {re.sub(old, new, name): value for name, value in state.items()}
    return state


def pasted(report: Transfer) -> dict[str, str]:
    argument, _, _ = report.hint.partition("      ")
    found: dict[str, str] = eval(argument.removeprefix("rename="))  # what a person would paste
    return found


@pytest.mark.parametrize("front", ["", "module."])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_that_differ_by_a_rule_are_offered_the_rule_with_its_count(spelling: str, front: str) -> None:
    rules, count = SPELLINGS[spelling]
    source, model = randomised(network(), 1), randomised(network(), 2)
    state = prefixed(respelt(source.state_dict(), rules), front)
    report = transfer(state, model)
    assert report.hint.endswith(f"{count} names would agree")
    assert transfer(state, model, rename=pasted(report)).ok
    assert equal(snapshot(model), snapshot(source))


def test_the_remedy_is_the_rule_and_never_a_pair_of_expected_differences() -> None:
    state = respelt(network().state_dict(), SPELLINGS["gamma and beta"][0])
    report = transfer(state, network())
    with pytest.raises(TransferError) as caught:
        report.raise_if_failed()
    assert "expect_" not in str(caught.value)
    assert f"try       {report.hint}" in str(caught.value)


def test_words_that_shapes_do_not_tell_apart_are_not_guessed() -> None:
    source = nn.ModuleDict({"first": nn.Linear(4, 4), "second": nn.Linear(4, 4), "same": nn.Linear(4, 2)})
    model = nn.ModuleDict({"one": nn.Linear(4, 4), "two": nn.Linear(4, 4), "same": nn.Linear(4, 2)})
    assert transfer(source, model).hint == ""


def test_a_rule_that_would_rename_what_has_its_place_is_not_offered() -> None:
    source = nn.ModuleDict({"a": nn.ModuleDict({"x": nn.Linear(2, 2)}), "b": nn.ModuleDict({"x": nn.Linear(3, 3)})})
    model = nn.ModuleDict({"a": nn.ModuleDict({"y": nn.Linear(2, 2)}), "b": nn.ModuleDict({"x": nn.Linear(3, 3)})})
    report = transfer(source, model)
    if report.hint:
        assert transfer(source, model, rename=pasted(report)).ok


def test_one_tensor_is_no_rule() -> None:
    state = {"old.scale": torch.ones(3), "same.weight": torch.ones(2, 2), "same.bias": torch.ones(2)}
    model = nn.ModuleDict({"new": nn.Module(), "same": nn.Linear(2, 2)})
    model["new"].scale = nn.Parameter(torch.zeros(3))
    assert transfer(state, model).hint == ""


def test_no_hint_moves_a_norm_to_a_linear_layer() -> None:
    source = nn.ModuleDict({"aux": nn.BatchNorm1d(3), "same": nn.Linear(9, 9)})
    model = nn.ModuleDict({"new": nn.Sequential(nn.Linear(3, 3)), "same": nn.Linear(9, 9)})
    assert transfer(source, model).hint == ""


def test_a_total_miss_is_offered_the_rule_too() -> None:
    source = nn.ModuleDict({"norm": nn.LayerNorm(4)})
    state = {"norm.gamma": torch.ones(4), "norm.beta": torch.zeros(4)}
    with pytest.raises(TransferError, match="2 names would agree"):
        transfer(state, source)


def holder(shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    """A model of parameters by their dotted names."""
    model = nn.Module()
    for name, shape in shapes.items():
        *path, leaf = name.split(".")
        at = model
        for part in path:
            if part not in at._modules:
                at.add_module(part, nn.Module())
            at = at._modules[part]
        at.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
    return model


def linear(*names: str, rows: int = 4, columns: int = 4, bias: bool = True) -> dict[str, tuple[int, ...]]:
    both = [{f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)} for name in names]
    return {name: shape for layer in both for name, shape in layer.items() if bias or name.endswith("weight")}


def in_blocks(*layers: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Layers in two blocks, before a head that fits."""
    named = {f"blocks.{i}.{name}": shape for i in range(2) for layer in layers for name, shape in layer.items()}
    return named | linear("head", rows=3)


def hint_of(source: dict[str, tuple[int, ...]], target: dict[str, tuple[int, ...]]) -> str:
    return transfer({name: torch.rand(shape) for name, shape in source.items()}, holder(target), dry_run=True).hint


KEPT = {name: shape for name, shape in linear("a.query", "a.key", "a.value").items() if name != "a.key.bias"}
NO_RULE = {
    "keys and values in one": (linear("a.c_attn", rows=12), linear("a.q_proj", "a.k_proj", "a.v_proj")),
    "heads interleaved": (linear("a.query_key_value", rows=12), linear("a.q_proj", "a.k_proj", "a.v_proj")),
    "joined and transposed": (linear("a.q_proj", "a.k_proj", "a.v_proj"), linear("a.c_attn", columns=12)),
    "keys without a bias": (KEPT, linear("a.q_proj", "a.k_proj", "a.v_proj")),
    "one of several of a shape": (linear("out", "q"), linear("proj", "k")),
    "a part with the bias of another": (
        linear("c_fc", rows=8),
        linear("lin", rows=8, bias=False) | linear("kv_proj", rows=8),
    ),
    "what has its weight already": ({"w.weight": (4, 4), "norm.weight": (4,), "norm.bias": (4,)}, linear("w")),
    "numbers that change places": (
        linear("fc1", rows=8) | linear("fc2", columns=8),
        linear("linear2", rows=8) | linear("linear1", columns=8),
    ),
}


@pytest.mark.parametrize("kind", NO_RULE)
def test_no_rule_is_offered_that_moves_a_layer_to_another(kind: str) -> None:
    source, target = NO_RULE[kind]
    assert hint_of(in_blocks(source), in_blocks(target)) == ""


def test_rules_are_applied_in_turn_without_undoing_each_other() -> None:
    source = in_blocks(linear("c_proj", columns=8), linear("qkv", rows=12))
    target = in_blocks(linear("linear2", columns=8), linear("q", "k", "v"))
    assert hint_of(source, target).startswith('merge="fused"')


@pytest.mark.parametrize("square", [True, False])
def test_layers_alone_that_differ_by_their_words_are_offered_every_rule_and_none_is_taken(square: bool) -> None:
    rows = 4 if square else 8
    source, target = (linear(f"{word}1", rows=rows) | linear(f"{word}2", columns=rows) for word in ("fc", "linear"))
    with pytest.raises(TransferError) as caught:
        hint_of(source, target)
    assert r'rename={r"(^|\.)fc1\.": r"\1linear1.", r"(^|\.)fc2\.": r"\1linear2."}      4 names' in str(caught.value)
    assert "linear2." not in str(caught.value).replace(r'fc2\.": r"\1linear2.', "").split("try")[1]


WORDS = {
    "query": ("q", "q_proj", "self.query", "wq"),
    "key": ("k", "k_proj", "self.key", "wk"),
    "value": ("v", "v_proj", "self.value", "wv"),
    "out": ("proj", "out_proj", "dense", "wo"),
    "first": ("fc1", "linear1", "mlp.fc1", "c_fc", "w1"),
    "second": ("fc2", "linear2", "mlp.fc2", "c_proj", "w2"),
    "norm": ("norm1", "ln_1", "pre"),
    "kv": ("kv", "kv_proj"),
    "qkv": ("qkv", "c_attn", "query_key_value"),
}
ATTENTION = [
    (("query", "key", "value"), ("query", "key", "value")),
    (("query", "key", "value"), ("query", "kv")),
    (("qkv",), ("query", "key", "value")),
    (("query", "key", "value"), ("qkv",)),
]


@pytest.mark.sampled(20)
@pytest.mark.parametrize("seed", range(100))
def test_what_a_hint_renames_is_the_same_layer_in_other_words(seed: int) -> None:
    draw = random.Random(seed)
    parts, hidden, truth = draw.choice(ATTENTION), draw.choice([4, 8]), {"head.weight": "head.weight"}
    rows = {"kv": 8, "qkv": 12, "first": hidden}
    sides: list[dict[str, tuple[int, ...]]] = []
    spelt = [{kind: draw.choice(words) for kind, words in WORDS.items()} for _ in parts]
    for own, words in zip(parts, spelt, strict=True):
        layers = [
            linear(words[k], rows=rows.get(k, 4), columns=hidden if k == "second" else 4, bias=draw.random() < 0.7)
            for k in (*own, "out", "first", "second")
        ]
        sides.append(in_blocks(*layers, {f"{words['norm']}.{leaf}": (4,) for leaf in ("weight", "bias")}))
    truth |= {
        f"blocks.{i}.{spelt[0][kind]}.{leaf}": f"blocks.{i}.{spelt[1][kind]}.{leaf}"
        for i in range(2)
        for kind in WORDS
        for leaf in ("weight", "bias")
    }
    hint = hint_of(*sides)
    rules = eval(hint.partition("      ")[0].removeprefix("rename=")) if hint.startswith("rename=") else {}
    for name in sides[0]:
        turned = name
        for old, new in rules.items():
            turned = re.sub(old, new, turned)
        assert turned == name or turned not in sides[1] or truth[name] == turned


@pytest.mark.measures
def test_names_of_which_each_could_be_any_other_are_looked_through_in_short_time() -> None:
    shapes = {"weight": (2, 2), "bias": (2,)}
    left, free = (
        {f"{front}{i}.{leaf}": Spec("", shape) for i in range(1000) for leaf, shape in shapes.items()}
        for front in ("layer", "l")
    )
    start = time.process_time()
    assert respellings(left, free, {}) == []
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("kwargs", "old", "new", "remedies"),
    [
        ({"shapes": "slice"}, 34, 28, ['shapes="blocks"', 'shapes="groups"']),
        ({"shapes": {"*": "slice"}}, 34, 28, ['shapes="blocks"', 'shapes="groups"']),
        ({"keep": {"0.*": "coco->crowdpose"}}, 34, 28, ['shapes="blocks"', 'shapes="groups"']),
        ({"shapes": "blocks"}, 34, 14, ['keep={"0": [0, 1, None]}']),
        ({}, 34, 28, ['shapes="slice"']),
    ],
)
def test_the_remedy_of_a_total_miss_is_not_what_was_called(kwargs, old, new, remedies):
    model = nn.Sequential(nn.Conv2d(4, new, 1))
    with pytest.raises(CoverageError) as caught:
        transfer({"0.weight": torch.randn(old, 4, 1, 1), "0.bias": torch.zeros(old)}, model, **kwargs)
    assert caught.value.mismatches[0].remedy.splitlines() == remedies
