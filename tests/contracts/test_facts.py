"""Facts: what is wrong where one is made or changed by hand, in words of this package."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import BaseModel
from torch import nn

import autoadapt as aa
from autoadapt.adapting import operations
from autoadapt.adapting.operations import Project
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.signature import AxisSizes, Signature
from autoadapt.contracts.trees import Constant

X = torch.zeros(1, 3, 8, 8)
PLAN = aa.adapt(nn.Conv2d(3, 5, 4, 4), like=nn.Conv2d(3, 8, 4, 4), inputs=X).plan
SIGNATURE = PLAN.target
FACTS = [PLAN, SIGNATURE, SIGNATURE.outputs.leaves[0], PLAN.routes[0], PLAN.routes[0].steps[0], Constant(value=1)]
FACTS += [AxisSizes(example=3), aa.Statistics()]


def faults_of(call: Callable[[], object]) -> aa.AdaptError:
    """What a call raises, which holds no words of pydantic."""
    with pytest.raises(aa.AdaptError) as caught:
        call()
    text = str(caught.value)
    assert not any(
        word in text for word in ("pydantic", "Extra inputs", "valid ", "instance", "Input should", "Value error")
    )
    assert caught.value.code
    return caught.value


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_a_fact_that_is_changed_says_so_in_our_words(fact: object) -> None:
    field = next(iter(type(fact).model_fields))
    for change in (lambda: setattr(fact, field, 3), lambda: setattr(fact, "nothing", 3), lambda: delattr(fact, field)):
        error = faults_of(change)
        assert error.summary == f"a {type(fact).__name__} does not change"
        assert error.mismatches[0].remedy


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: aa.Plan(x=1), "one of made, schema_version, source"),
        (lambda: Signature(inputs=1, outputs="x"), "a Values"),
        (lambda: Project(form="conv", source="many", target=0), "a whole number"),
        (lambda: Project(form="conv", source=1, target=0), "greater than or equal to 1"),
        (lambda: Project(form="round", source=1, target=1), "'conv' or 'linear'"),
        (lambda: AxisSizes(example=(3,)), "a whole number"),
    ],
)
def test_a_fact_that_is_made_wrongly_says_so_in_our_words(call: Callable[[], object], expected: str) -> None:
    assert expected in str(faults_of(call))


@pytest.mark.parametrize(
    ("like", "remedy"),
    [
        ("f32[B, 0, H//4, W//4]", '"f32[B, 256, ceil(H/4), ceil(W/4)]"'),
        ({"a": "f32[B, 8, H, 0]"}, '"f32[B, 256, ceil(H/4), ceil(W/4)]"'),
        ("f32[B, -8, H//4, W//4]", "8"),
        ("F32[B, 8, H//4, W//4]", "f32"),
        ("zz[B, 8]", "f32"),
        ("f32(B, 8, H//4, W//4)", '"f32[B, 8, H//4, W//4]"'),
        ([nn.Conv2d(3, 3, 1)], "like=old"),
        ({"a": nn.Sequential(nn.ReLU(), nn.ReLU())}, "like=old"),
        ([[64, 128]], '"f32[B, 64, ceil(H/4), ceil(W/4)]", "f32[B, 128, ceil(H/8), ceil(W/8)]"'),
    ],
)
def test_a_contract_that_is_written_wrongly_is_refused_with_what_to_write(like: object, remedy: str) -> None:
    with pytest.raises(aa.AdaptError) as caught:
        aa.adapt(nn.Conv2d(3, 5, 4, 4), like=like, inputs=X)
    assert remedy in caught.value.mismatches[0].remedy
    assert "\n" not in caught.value.mismatches[0].found


def test_every_operation_of_a_plan_speaks_in_our_words() -> None:
    values = [kind for kind in vars(operations).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
    assert [kind for kind in values if not issubclass(kind, MadeByHand)] == []
    assert operations.Counted in values


def test_a_shape_in_a_config_is_answered_with_its_spec() -> None:
    error = faults_of(lambda: aa.assemble({"input": (1, 3, 64, 64), "backbone": "timm:resnet10t"}))
    assert "input: f32[B, 3, 64, 64]" in str(error)


def test_a_config_of_one_line_is_a_text_and_no_path() -> None:
    assert "cannot be read" not in str(faults_of(lambda: aa.assemble("backbone: 3")))
