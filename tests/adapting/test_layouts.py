"""Chains are found by the algebra of axes: whatever is found leads to the target, and what is alike costs nothing."""

import math

import pytest
from hypothesis import given, settings, strategies as st

from autoadapt.adapting.layouts import Refusal, chain, distance, factored
from autoadapt.adapting.operations import Project
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import TensorSpec

SETTINGS = settings(derandomize=True, deadline=None, max_examples=150, database=None)

grids = st.sampled_from(
    [
        ("ceil(H/4)", "ceil(W/4)"),
        ("floor(H/8)", "floor(W/8)"),
        ("ceil(H/16)", "ceil(W/16)"),
        ("floor(H/14)", "floor(W/14)"),
        ("ceil(H/32)", "ceil(W/32)"),
    ]
)
LAYOUTS = (
    "f32[B, {c}, {h}, {w}]",
    "f32[B, {h}, {w}, {c}]",
    "f32[B, {h}*{w}, {c}]",
    "f32[B, {h}*{w} + 1, {c}]",
    "f32[B, {h}*{w} + 5, {c}]",
    "f32[B, {c}, {h}*{w}]",
    "f32[{h}*{w}, B, {c}]",
    "f32[B, 1, {c}, {h}, {w}]",
    "bf16[B, {c}, {h}, {w}]",
)
VECTORS = ("f32[B, {c}]", "f32[B, 1, {c}]", "f32[B, {c}, 1, 1]")


def spec(layout, grid, channels):
    return TensorSpec.parse(layout.format(c=channels, h=grid[0], w=grid[1]))


sources = st.builds(spec, st.sampled_from(LAYOUTS), grids, st.sampled_from((3, 8, 64)))
targets = st.builds(spec, st.sampled_from((*LAYOUTS, *VECTORS)), grids, st.sampled_from((3, 8, 64)))


def texts(found):
    assert not isinstance(found, Refusal), found
    return [str(step) for step in found]


@SETTINGS
@given(sources, targets)
def test_a_chain_leads_from_its_source_exactly_to_its_target(source, target):
    found = chain(source, target)
    if isinstance(found, Refusal):
        assert any(factored(target).prefixes), found
        return
    made = source
    for step in found:
        made = step.gives(made)
    assert (made.dtype, made.dims) == (target.dtype, target.dims)


@SETTINGS
@given(sources)
def test_what_is_alike_gets_no_step(source):
    assert chain(source, source) == ()


@SETTINGS
@given(sources, targets)
def test_channels_are_projected_once_and_only_where_they_differ(source, target):
    found = chain(source, target)
    if not isinstance(found, Refusal):
        learned = [step for step in found if isinstance(step, Project)]
        have, want = ({dim.constant for dim in one.dims} - {None, 1} for one in (source, target))
        assert len(learned) == (have != want)
        assert sum(step.parameters for step in learned) == (math.prod((*have, *want)) + want.pop() if learned else 0)


@SETTINGS
@given(sources, targets)
def test_equal_questions_have_equal_answers(source, target):
    assert chain(source, target) == chain(TensorSpec.parse(str(source)), TensorSpec.parse(str(target)))


@SETTINGS
@given(sources, grids)
def test_going_to_the_same_grid_is_no_distance_and_to_another_is(source, grid):
    target = factored(spec("f32[B, {c}, {h}, {w}]", grid, 8))
    same = factored(source).strides == target.strides
    assert (distance(factored(source), target) == 0) == same


KNOWN = {
    "other channels": ("f32[B, 512, ceil(H/32), ceil(W/32)]", "f32[B, 2048, ceil(H/32), ceil(W/32)]", ["512->2048"]),
    "a transformer like a convolution": (
        "f32[B, floor(H/16)*floor(W/16) + 1, 384]",
        "f32[B, 64, ceil(H/16), ceil(W/16)]",
        ["drop 1", "b (h w) c -> b c h w", "384->64", "resize to ceil(H/16) x ceil(W/16)"],
    ),
    "coarser: pooled before it is projected": (
        "f32[B, 8, ceil(H/4), ceil(W/4)]",
        "f32[B, 32, ceil(H/16), ceil(W/16)]",
        ["pool 4", "8->32"],
    ),
    "finer: projected before it is resized": (
        "f32[B, 32, ceil(H/16), ceil(W/16)]",
        "f32[B, 8, ceil(H/4), ceil(W/4)]",
        ["32->8", "resize to ceil(H/4) x ceil(W/4)"],
    ),
    "channels last": ("f32[B, ceil(H/4), ceil(W/4), 96]", "f32[B, 96, ceil(H/4), ceil(W/4)]", ["b h w c -> b c h w"]),
    "a vector": ("f32[B, 512, ceil(H/32), ceil(W/32)]", "f32[B, 512]", ["mean over 2, 3"]),
    "points": ("f32[B, 256, 1024]", "f32[B, 288, 1024]", ["256->288"]),
    "tokens on a finer grid": (
        "f32[B, floor(H/32)*floor(W/32) + 1, 96]",
        "f32[B, floor(H/16)*floor(W/16) + 1, 48]",
        ["96->48", "resize tokens to floor(H/16) x floor(W/16)"],
    ),
    "tokens on a coarser grid": (
        "f32[B, ceil(H/8)*ceil(W/8) + 5, 96]",
        "f32[B, ceil(H/32)*ceil(W/32) + 5, 48]",
        ["resize tokens to ceil(H/32) x ceil(W/32)", "96->48"],
    ),
    "tokens of one width on another grid, in another dtype": (
        "f64[B, ceil(H/8)*ceil(W/8) + 1, 96]",
        "f32[B, ceil(H/9)*ceil(W/9) + 1, 96]",
        ["resize tokens to ceil(H/9) x ceil(W/9)", "to f32"],
    ),
    "tokens behind more others": (
        "f32[B, ceil(H/8)*ceil(W/8) + 5, 8]",
        "f32[B, ceil(H/4)*ceil(W/4) + 1, 8]",
        ["drop 4 after 1", "resize tokens to ceil(H/4) x ceil(W/4)"],
    ),
    "a class token before others on both sides": (
        "f32[B, ceil(H/8)*ceil(W/8) + 5, 8] 2 last",
        "f32[B, ceil(H/8)*ceil(W/8) + 1, 8]",
        ["drop 2 after 1", "drop last 2"],
    ),
    "a class token": ("f32[B, ceil(H/8)*ceil(W/8) + 1, 8]", "f32[B, 4] class token", ["class token", "8->4"]),
    "a mean of tokens": ("f32[B, ceil(H/8)*ceil(W/8) + 1, 8]", "f32[B, 4]", ["drop 1", "mean over 1", "8->4"]),
    "a mean over the columns of tokens": (
        "f32[B, floor(H/16)*floor(W/16), 8]",
        "f32[B, floor(H/16), 8]",
        ["b (h w) c -> b h w c", "mean over 2"],
    ),
    "another dtype": ("f64[B, 8]", "f32[B, 8]", ["to f32"]),
    "another integer": ("i64[B, 1024] index", "i32[B, 1024] index", ["to i32"]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_chains_are_the_shortest(name):
    source, target, expected = KNOWN[name]
    assert texts(chain(TensorSpec.parse(source), TensorSpec.parse(target))) == expected


def test_an_axis_of_one_size_keeps_twice_the_cells_of_the_target_for_interpolation_to_read():
    source = factored(TensorSpec.parse("f32[B, 8, ceil(H/4), ceil(W/4)]"), {"H": Dim(224)})
    found = chain(source, TensorSpec.parse("f32[B, 8, ceil(H/32), ceil(W/32)]"))
    assert texts(found) == ["pool 4 x 8", "resize to ceil(H/32) x ceil(W/32)"]


REFUSED = {
    "tokens that the source lacks": (
        "f32[B, 8, ceil(H/4), ceil(W/4)]",
        "f32[B, ceil(H/4)*ceil(W/4) + 2, 8]",
        "the target has 2 leading tokens that the source lacks",
    ),
    "tokens behind fewer others": (
        "f32[B, ceil(H/8)*ceil(W/8) + 1, 8]",
        "f32[B, ceil(H/4)*ceil(W/4) + 5, 8]",
        "the target has 5 leading tokens and the source 1",
    ),
    "labels of tokens on another grid": (
        "i64[B, ceil(H/8)*ceil(W/8) + 1, 8]",
        "i64[B, ceil(H/4)*ceil(W/4) + 1, 8]",
        "the target has 1 leading token beside cells that are not interpolated",
    ),
    "tokens of another order on another grid": (
        "f32[B, ceil(W/8)*ceil(H/8) + 1, 8]",
        "f32[B, 8, ceil(H/4)*ceil(W/4) + 1]",
        "the target has 1 leading token beside cells that are not interpolated",
    ),
    "integers from floats": ("f32[B, 1024]", "i64[B, 1024]", "f32 values are no i64 values"),
    "floats from integers": ("i64[B, 1024]", "f32[B, 1024]", "i64 values are no f32 values"),
    "a grid from a vector": ("f32[B, 8]", "f32[B, 8, ceil(H/4), ceil(W/4)]", "nothing in the source has an axis like"),
    "other integers": ("i64[B, 1000]", "i64[B, 1024]", "never projected or interpolated"),
    "other masks": ("bool[B, H, W]", "bool[B, ceil(H/2), ceil(W/2)]", "never projected or interpolated"),
    "one sample of a batch": ("f32[B, 8]", "f32[1, 8]", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_honest_chain_is_refused_with_the_reason(name):
    source, target, why = REFUSED[name]
    found = chain(TensorSpec.parse(source), TensorSpec.parse(target))
    assert isinstance(found, Refusal), found
    assert why in found.why


def test_axes_are_taken_apart_into_prefix_and_factors():
    tokens = factored(TensorSpec.parse("f32[B, floor(H/16)*floor(W/16) + 5, 384]"))
    assert tokens.prefixes == (0, 5, 0)
    assert [str(atom.dim) for atom in tokens.atoms[1]] == ["floor(H/16)", "floor(W/16)"]
    assert {axis: int(stride) for axis, stride in tokens.strides.items()} == {"H": 16, "W": 16}


def test_a_fixed_grid_keeps_its_stride_when_its_input_is_resized():
    spec = TensorSpec.parse("f32[B, 8, floor(H/16), floor(W/16)]")
    found = factored(spec, {"H": Dim(224), "W": Dim(224)})
    assert [str(dim) for dim in found.spec.dims] == ["B", "8", "14", "14"]
    assert {axis: int(stride) for axis, stride in found.strides.items()} == {"H": 16, "W": 16}


def test_asking_for_a_projection_puts_it_where_nothing_differs():
    spec = TensorSpec.parse("f32[B, 8, H, W]")
    assert texts(chain(spec, spec, project=True)) == ["8->8"]
    index = TensorSpec.parse("i64[B, 8] index")
    assert chain(index, index, project=True) == ()


def test_a_grid_of_whole_cells_is_one_axis_each():
    source = TensorSpec.parse("f32[B, 8, 2*ceil(H/32), 2*ceil(W/32)]")
    target = TensorSpec.parse("f32[B, 8, ceil(H/16), ceil(W/16)]")
    assert texts(chain(source, target)) == ["resize to ceil(H/16) x ceil(W/16)"]


def test_tokens_of_a_grid_of_whole_cells_are_split_into_rows():
    source = TensorSpec.parse("f32[B, 4*ceil(H/32)*ceil(W/32), 8]")
    target = TensorSpec.parse("f32[B, 8, ceil(H/16), ceil(W/16)]")
    assert texts(chain(source, target)) == ["b (h w) c -> b c h w", "resize to ceil(H/16) x ceil(W/16)"]


def test_what_no_layer_does_is_refused():
    refused = chain(TensorSpec.parse("f32[B, 8, 16, ceil(H/4)]"), TensorSpec.parse("f32[B, 8, 32, ceil(H/4)]"))
    assert refused == Refusal("torch has no layer that brings axes to 32 among 4")
