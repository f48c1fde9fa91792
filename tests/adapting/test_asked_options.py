"""Options of `adapt`, `plan` and `swap`: what they do not take is refused alike, and nothing is done."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.errors import AdaptError

X = torch.zeros(1, 3, 16, 16)
OLD, NEW = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(3, 5, 2, 2)

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"project": "never"}, "expected  'needed', 'always' or 'places'\n  found     'never'", 'project="needed"'),
    ({"thin": "evn"}, "expected  'farthest', 'first', 'even', 'random' or 'repeat'", 'thin="even"'),
    ({"indices": None}, "expected  'refuse' or 'recover'\n  found     None", 'indices="refuse"'),
    ({"nondeterministic": True}, "expected  'refuse' or 'allow'", 'nondeterministic="refuse"'),
    ({"outputs": [2]}, "expected  a list of paths, as texts\n  found     [2]", "outputs=['2']"),
    ({"outputs": "c4"}, "found     one text, 'c4'", "outputs=['c4']"),
    ({"outputs": 2}, "found     2", "outputs=['2']"),
    ({"pairs": {2: 1}}, "expected  a dict of paths, as texts", "pairs={'2': '1'}"),
    ({"pairs": ["2"]}, "found     ['2']", 'pairs={"path of the old output": "path in new"}'),
    ({"convert_inputs": 3}, "expected  a tuple of texts\n  found     3", "convert_inputs=()  # none"),
]
NOT_OF_PLAN: list[tuple[dict[str, Any], str, str]] = [
    ({"taps": {2: "layer1"}}, "expected  a dict of paths, as texts", "taps={'2': 'layer1'}"),
    ({"grid": 3}, "by path\n  found     3", 'grid={"blocks.11": (14, 14, 1)}'),
    ({"grid": {"blocks.11": 14}}, "found     {'blocks.11': 14}", 'grid={"blocks.11": (14, 14, 1)}'),
]
ONLY_OF_SWAP: list[tuple[dict[str, Any], str, str]] = [
    ({"max_parameters": "10"}, "expected  a whole number from 0\n  found     '10'", "max_parameters=10_000_000"),
    ({"max_parameters": -1}, "found     -1", "max_parameters=10_000_000"),
]


def told(call: Any, option: dict[str, Any], found: str, remedy: str) -> None:
    with pytest.raises(AdaptError) as caught:
        call(option)
    text = str(caught.value)
    assert text.splitlines()[:2] == ["an argument does not take this value", f"`{next(iter(option))}`"]
    assert found in text
    assert text.endswith(f"try       {remedy}")
    assert caught.value.code


@pytest.mark.parametrize(("option", "found", "remedy"), WRONG)
def test_plan_refuses_an_option_that_it_does_not_take(option, found, remedy):
    new, old = (aa.Signature.parse(f"f32[B, {c}, H//4, W//4]", inputs="f32[B, 3, H, W]") for c in (5, 8))
    told(lambda options: aa.plan(new, old, **options), option, found, remedy)


@pytest.mark.parametrize(("option", "found", "remedy"), WRONG + NOT_OF_PLAN)
def test_adapt_refuses_an_option_that_it_does_not_take(option, found, remedy):
    told(lambda options: aa.adapt(NEW, like=OLD, inputs=X, **options), option, found, remedy)


@pytest.mark.parametrize(("option", "found", "remedy"), WRONG + NOT_OF_PLAN + ONLY_OF_SWAP)
def test_swap_refuses_an_option_that_it_does_not_take_and_changes_nothing(option, found, remedy):
    model = nn.Sequential(copy.deepcopy(OLD), nn.Conv2d(8, 2, 1))
    before = list(model)
    told(lambda options: aa.swap(model, "0", NEW, inputs=X, **options), option, found, remedy)
    assert list(model) == before
