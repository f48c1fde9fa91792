"""Hints: names that differ by a rule are told the rule, and nothing that is no rule is offered."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from weights_models import equal, prefixed, randomised, snapshot

from autoadapt.errors import TransferError
from autoadapt.weights import Transfer, transfer


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
