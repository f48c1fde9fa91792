"""Refusals: known by the forms of tensors, so that thousands of outputs are matched in seconds."""

import itertools
import time

import pytest
from hypothesis import given, settings, strategies as st

import autoadapt as aa
from autoadapt.adapting.layouts import factored
from autoadapt.adapting.refusals import Refusals, refusal
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Centres, Signature, TensorSpec

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40, database=None)

ONE_AXIS = "B, 0, 1, 7, 8, 64, ceil(H/4), floor(W/4), ceil(H/16), ceil(W/16), W, 2*ceil(H/4), 2*B, ceil(H/4) + 3"
MORE = "ceil(H/4)*ceil(W/4), ceil(H/4)*ceil(W/4) + 1, ceil(H/16)*ceil(W/16) + 1, 4*ceil(H/4)*ceil(W/4), B*ceil(H/4)"
sizes = st.sampled_from([*ONE_AXIS.split(", "), *MORE.split(", ")])
dtypes = st.sampled_from(["f32", "f32", "f32", "f16", "i64", "c64", "bool"])
orders = st.sampled_from(["", "", "", " in columns order", " in unknown order"])
centres = st.sampled_from([(), (), (Centres(axis="H", first=0, step=4),), (Centres(axis="H", first=43, step=4),)])


@st.composite
def specs(draw):
    dims = ", ".join(["B", *draw(st.lists(sizes, max_size=4))])
    role = draw(st.sampled_from(["", "", "", " coordinate", " mask"]))
    spec = TensorSpec.parse(f"{draw(dtypes)}[{dims}]{role}{draw(orders)}{draw(st.sampled_from(['', '', ' 1 last']))}")
    points = draw(st.sampled_from([None, None, None, len(spec.dims) - 1]))
    return spec.model_copy(update={"centres": draw(centres), "points": points})


@SETTINGS
@given(st.lists(specs(), min_size=2, max_size=9), st.sampled_from([{}, {"H": Dim(64), "W": Dim(64)}]))
def test_what_is_known_of_a_form_holds_of_every_tensor_of_it(some, read):
    refusals = Refusals()
    sources = [refusals.form(factored(spec, read)) for spec in some]
    targets = [refusals.form(factored(spec)) for spec in some]
    for source, target in itertools.product(sources, targets):
        assert refusals.refuses(source, target) == (refusal(source.tensor, target.tensor.spec) is not None)


def test_where_cells_lie_tells_forms_of_tokens_apart():
    """Specs are equal whose cells lie elsewhere; a chain between these resamples them."""
    tokens = TensorSpec.parse("f32[B, ceil(H/4), 3] coordinate")
    moved = tokens.model_copy(update={"centres": (Centres(axis="H", first=43, step=4),)})
    refusals = Refusals()
    assert refusals.form(factored(tokens)).number != refusals.form(factored(moved)).number


KINDS = {
    "equal": "f32[B, {c}, ceil(H/4), ceil(W/4)]",
    "of other strides": "f32[B, {c}, ceil(H/{n}), ceil(W/{n})]",
    "of other channels": "f32[B, {c} + {n}, ceil(H/4), ceil(W/4)]",
    "of fixed sizes": "f32[B, {c}, {n}, {n}]",
    "tokens": "f32[B, ceil(H/{n})*ceil(W/{n}) + 1, {c}]",
}


def many(kind, count, channels):
    texts = {f"level{n}": KINDS[kind].format(n=n, c=channels) for n in range(1, count + 1)}
    return Signature.parse(texts, inputs={"x": "f32[B, 3, H, W]"})


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_by_the_hundred_are_each_served_by_their_own(kind):
    began = time.process_time()
    plan = aa.plan(many(kind, 150, 16), many(kind, 150, 8))
    assert [route.source for route in plan.routes] == [route.target for route in plan.routes]
    assert time.process_time() - began < 5


@pytest.mark.slow  # 4 million pairs
@pytest.mark.measures
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_outputs_are_each_served_by_their_own_within_half_a_minute(kind):
    began = time.process_time()
    plan = aa.plan(many(kind, 2000, 16), many(kind, 2000, 8))
    assert [route.source for route in plan.routes] == [route.target for route in plan.routes]
    assert time.process_time() - began < 30
