"""Sources are chosen by name, role, stride and order, never by position alone; ties are refused."""

import pytest
from hypothesis import given, settings, strategies as st

import autoadapt as aa
from autoadapt.contracts.signature import Gathering

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40, database=None)

IMAGE = "f32[B, 3, H, W]"
CLOUD = "f32[B, N, 4]"


def level(stride, channels=8):
    return f"f32[B, {channels}, ceil(H/{stride}), ceil(W/{stride})]"


def served(new, old, *, inputs=IMAGE, rules=(), known=(), **options):
    """Which source serves which target."""
    source = aa.Signature.parse(new, inputs=inputs, name="Backbone").model_copy(update={"invariants": tuple(known)})
    target = aa.Signature.parse(old, inputs=inputs).model_copy(update={"invariants": tuple(rules)})
    return {route.target: route.source for route in aa.plan(source, target, **options).routes}


def refusal(new, old, **options):
    with pytest.raises(aa.MatchError) as caught:
        served(new, old, **options)
    return str(caught.value)


strides = st.lists(st.sampled_from((2, 4, 8, 16, 32, 64)), min_size=1, max_size=5, unique=True)


@SETTINGS
@given(strides, st.randoms(use_true_random=False))
def test_levels_are_paired_by_stride_in_whatever_order_they_come(wanted, shuffle):
    have = [2, 4, 8, 16, 32, 64]
    shuffle.shuffle(have)
    found = served([level(stride, 5) for stride in have], [level(stride) for stride in wanted])
    assert {wanted[int(target)]: have[int(source)] for target, source in found.items()} == {s: s for s in wanted}


@SETTINGS
@given(st.permutations(["a", "b", "c"]))
def test_of_outputs_of_one_shape_those_of_the_same_name_are_paired(order):
    new = {name: level(4) for name in order}
    assert served(new, {name: level(4, 9) for name in "abc"}) == {"a": "a", "b": "b", "c": "c"}


@SETTINGS
@given(strides, strides)
def test_every_target_is_served_by_a_source_of_the_nearest_stride(have, wanted):
    have, wanted = sorted(have), sorted(wanted)
    found = served([level(stride, 5) for stride in have], [level(stride) for stride in wanted])
    for target, source in found.items():
        octaves = {stride: abs(stride.bit_length() - wanted[int(target)].bit_length()) for stride in have}
        assert octaves[have[int(source)]] == min(octaves.values())


def test_blocks_of_one_stride_are_shared_out_from_shallow_to_deep():
    have = [level(16, 5)] * 12
    assert served(have, [level(4), level(8), level(16), level(32)]) == {"0": "2", "1": "5", "2": "8", "3": "11"}


def test_a_name_counts_only_among_sources_of_the_same_stride():
    assert served({"p3": level(32), "deep": level(8)}, {"p3": level(8)}) == {"p3": "deep"}


def test_names_in_lists_are_told_apart_from_their_numbers():
    new = {
        "fp_xyz": ["f32[B, 8, 3] coordinate", "f32[B, 16, 3] coordinate"],
        "fp_features": ["f32[B, 5, 8]", "f32[B, 5, 16]"],
    }
    old = {"fp2_features": "f32[B, 9, 16]", "fp2_xyz": "f32[B, 16, 3] coordinate"}
    assert served(new, old, inputs=CLOUD) == {"fp2_features": "fp_features.1", "fp2_xyz": "fp_xyz.1"}


def test_an_index_is_served_by_that_which_takes_the_points_that_serve_its_coordinates():
    new = {"one": "i64[B, 16] index", "other": "i64[B, 16] index", "xyz": "f32[B, 16, 3] coordinate"}
    old = {"inds": "i32[B, 16] index", "xyz": "f32[B, 16, 3] coordinate"}
    rule = Gathering(values="inputs.x", stop=3, index="inds", result="xyz")
    for name in ("one", "other"):
        known = Gathering(values="inputs.x", stop=3, index=name, result="xyz")
        found = served(new, old, inputs=CLOUD, rules=[rule], known=[known])
        assert found == {"inds": name, "xyz": "xyz"}


def test_the_image_itself_is_handed_through():
    assert served([level(4)], [f"{IMAGE} = inputs.x", level(4)]) == {"0": "inputs.x", "1": "0"}


def test_the_callers_pairs_come_first():
    assert served([level(4, 5), level(8, 5)], {"p": level(4)}, pairs={"p": "1"}) == {"p": "1"}


def test_a_pair_that_has_no_honest_chain_is_refused():
    said = refusal({"ids": "i64[B, 4]", "map": level(4)}, {"p": level(4)}, pairs={"p": "ids"})
    assert "`p`" in said
    assert "i64" in said


@pytest.mark.parametrize(("pairs", "unknown"), [({"q": "map"}, "q"), ({"p": "mop"}, "mop")])
def test_a_pair_with_a_misspelt_name_gets_the_nearest(pairs, unknown):
    with pytest.raises(aa.PlanError) as caught:
        served({"map": level(4)}, {"p": level(4)}, pairs=pairs)
    assert f"pairs, {unknown}" in str(caught.value)
    assert "try       pairs={'p': 'map'}" in str(caught.value)


def test_two_equally_good_sources_are_refused_with_the_arguments_to_paste():
    said = refusal({"left": level(4, 5), "right": level(4, 5)}, {"wanted": level(4)})
    assert "one best source for f32[B, 8, ceil(H/4), ceil(W/4)]" in said
    assert "equally good: left" in said
    assert 'pairs={"wanted": "left"}\n            pairs={"wanted": "right"}' in said


DISHONEST = {
    "coordinates from features": (
        "f32[B, 5, 16]",
        "f32[B, 16, 3] coordinate",
        "coordinates are passed on, never made from features",
    ),
    "features from coordinates": (
        "f32[B, 16, 3] coordinate",
        "f32[B, 16, 9]",
        "coordinate values are no feature values",
    ),
    "features from indices": ("i64[B, 16] index", "f32[B, 16]", "index values are no feature values"),
    "indices from features": (
        "f32[B, 16]",
        "i32[B, 16] index",
        "a layer that makes integers up has the right shape and is wrong",
    ),
    "other indices": ("i64[B, 8] index", "i32[B, 16] index", "a layer that makes integers up"),
    "a map from a vector": (
        "f32[B, 5]",
        "f32[B, 5, ceil(H/4), ceil(W/4)]",
        "nothing in the source has an axis like ceil(H/4)",
    ),
    "a mask from features": ("f32[B, H, W]", "bool[B, H, W]", "f32 values are no bool values"),
}


@pytest.mark.parametrize("name", DISHONEST)
def test_what_no_source_can_honestly_serve_is_refused_by_its_name(name):
    new, old, why = DISHONEST[name]
    said = refusal({"have": new}, {"wanted": old}, inputs="f32[B, 3, H, W]")
    assert said.startswith("nothing in Backbone can serve `wanted`")
    assert why in said
    assert f"have {new.removesuffix(' feature')}" in said


def test_all_refused_outputs_are_listed_at_once():
    said = refusal({"have": level(4)}, {"a": "i32[B, 4] index", "b": level(4), "c": "i32[B, 4] index"})
    assert said.startswith("2 outputs cannot be served by Backbone")
    assert "outputs=['b']  # if nobody reads a, c" in said
    assert said.count("labels are gathered") == 1


@SETTINGS
@given(st.permutations(range(4)))
def test_the_order_of_the_targets_does_not_change_who_serves_them(order):
    wanted = [level(4), level(8), level(16), level(32)]
    names = "abcd"
    new = [level(4, 5), level(8, 5), level(16, 5), level(32, 5)]
    found = served(new, {names[i]: wanted[i] for i in order})
    assert found == dict(zip(names, "0123", strict=True))


@pytest.mark.parametrize(("old", "new"), [("c64[B, 4]", "f32[B, 4]"), ("f32[B, 4]", "c64[B, 4]")])
def test_complex_and_real_values_do_not_serve_each_other(old, new):
    assert "complex and real values are not made from each other" in refusal({"have": new}, {"wanted": old})


def test_complex_values_are_only_handed_on():
    assert "complex values are neither projected nor resized" in refusal({"have": "c64[B, 8]"}, {"wanted": "c64[B, 4]"})
