"""Signatures read what they print, keep what they hold, and say what another one does not keep."""

from collections import OrderedDict

import pytest
from dims_expressions import AXES
from hypothesis import given, settings, strategies as st

import autoadapt as aa
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import AxisSizes, Gathering, TensorSpec, Values, equal_where_legal, values
from autoadapt.contracts.trees import flatten, path_texts

SETTINGS = settings(derandomize=True, deadline=None, max_examples=80, database=None)

FORMS = ("{}", "ceil({}/2)", "floor({}/14)", "2*ceil({}/32)", "floor(({} - 3)/4) + 1", "max(1, {} - 6)")
dims = st.one_of(
    st.integers(1, 4096).map(str),
    st.builds(lambda form, axis: form.format(axis), st.sampled_from(FORMS), st.sampled_from(AXES)),
)
specs = st.builds(
    lambda dtype, parts, role, same: f"{dtype}[{', '.join(parts)}]{role}{same}",
    st.sampled_from(("f32", "bf16", "i64", "i32", "bool", "u8", "c64")),
    st.lists(dims, max_size=4),
    st.sampled_from(("", " index", " coordinate")),
    st.sampled_from(("", " = inputs.x", " = p2.0")),
)
outputs = st.recursive(
    specs,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    ),
    max_leaves=5,
)
IMAGE = "f32[B, 3, H, W]"


def written(texts, **axes):
    return aa.Signature.parse(texts, inputs=IMAGE, axes=axes)


@SETTINGS
@given(specs)
def test_a_spec_reads_what_it_prints(text):
    spec = TensorSpec.parse(text)
    assert TensorSpec.parse(str(spec)) == spec


KNOWN = st.tuples(
    st.sampled_from(
        ("", " centres 43 + 8 i", " centres -12.5 + 8 i along H, 3.1 + 8.3 i along W", " centres 1 + 2 i along W")
    ),
    st.sampled_from(("", " depth 5", " depth 3.25")),
    st.sampled_from(("", " class token")),
    st.sampled_from(("", " = p2.0")),
).map("".join)
"""What is known of a tensor and takes no part in comparing."""


@SETTINGS
@given(KNOWN)
def test_a_spec_in_full_reads_back_with_all_that_is_known(known):
    spec = TensorSpec.parse(f"f32[B, 8, ceil(H/8), ceil(W/8)]{known}")
    assert spec.in_full == f"f32[B, 8, ceil(H/8), ceil(W/8)]{known}"
    again = TensorSpec.parse(spec.in_full)
    assert (again.centres, again.depth, again.class_token) == (spec.centres, spec.depth, spec.class_token)
    assert again == TensorSpec.parse(str(spec))


def test_centres_without_an_axis_hold_along_all_that_are_spatial():
    spec = TensorSpec.parse("f32[B, ceil(H/8)*ceil(W/8), 8] centres 43 + 8 i")
    assert [(one.axis, one.first, one.step) for one in spec.centres] == [("H", 43, 8), ("W", 43, 8)]


@SETTINGS
@given(outputs)
def test_a_signature_comes_back_from_json_and_keeps_itself(texts):
    signature = written(texts)
    again = aa.Signature.model_validate_json(signature.model_dump_json())
    assert again == signature
    assert str(again) == str(signature)
    assert signature.diff(again) == []


@SETTINGS
@given(outputs, outputs)
def test_signatures_that_print_alike_are_equal_and_others_differ(left, right):
    one, other = written(left), written(right)
    assert (one == other) == (str(one) == str(other) and one.outputs.tree == other.outputs.tree)


@SETTINGS
@given(outputs, outputs)
def test_a_difference_in_containers_dtypes_or_dims_is_always_said(left, right):
    one, other = written(left), written(right)
    alike = one.outputs.tree == other.outputs.tree and [(spec.dtype, spec.dims) for spec in one.outputs.leaves] == [
        (spec.dtype, spec.dims) for spec in other.outputs.leaves
    ]
    if not alike:
        assert one.diff(other)


def test_a_signature_prints_as_a_table():
    signature = aa.Signature.parse(
        {"fp2_features": "f32[B, 288, 1024]", "levels": ["f32[B, 8, H, W]"]}, inputs={"x": IMAGE}, name="PointNet"
    )
    assert str(signature).splitlines() == [
        "PointNet",
        " input   x  f32[B, 3, H, W]",
        " output  dict of 2",
        "   fp2_features   f32[B, 288, 1024]",
        "   levels.0       f32[B, 8, H, W]",
    ]


def test_legal_sizes_are_said_below_the_table():
    signature = written(
        "f32[B, 8]", B=AxisSizes(example=2), H=AxisSizes(step=0, example=224), W=AxisSizes(step=32, example=64)
    )
    assert str(signature).splitlines()[-2:] == [" H:  224 only", " W:  multiples of 32"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("f32 B, 3", "dtype[dim, dim, ...]"),
        ("f33[B]", "expected  f64, f32"),
        ("f32[B] indx", "try       index"),
        ("f32[B, ceil(H/)]", "ceil(H/)"),
        ("float33[B]", "unknown dtype"),
        ("f32[B, H] centres 3 i", "found     3 i"),
        ("f32[B, H] centres 3 + 2 i along W", "found     3 + 2 i along W"),
        ("f32[B, H] centres 3 + 0 i", "does not tell where cells lie"),
        ("f32[B, H] centres 1e999 + 2 i", "does not tell where cells lie"),
        ("f32[B, H] centres one + 2 i", 'try       "centres 43 + 8 i"'),
        ("f32[B, H] depth -1", "is no tensor spec"),
    ],
)
def test_a_malformed_text_is_refused_and_shown(text, says):
    with pytest.raises(aa.SignatureError) as caught:
        TensorSpec.parse(text)
    assert says in str(caught.value)


def test_something_else_than_texts_is_refused_with_an_example():
    with pytest.raises(aa.SignatureError, match="a signature is made of texts") as caught:
        aa.Signature.parse({"p3": object()})
    assert '{"c4": "f32[B, 1024, ceil(H/16), ceil(W/16)]"}' in str(caught.value)


def test_floats_are_features_booleans_masks_and_integers_other_unless_said():
    roles = [
        spec.role
        for spec in Values.parse(["f32[B]", "bool[B]", "i64[B]", "i64[B] index", "f32[B, 3] coordinate"]).leaves
    ]
    assert roles == ["feature", "mask", "other", "index", "coordinate"]


def test_axes_that_are_not_described_may_take_any_size():
    signature = aa.Signature.parse("f32[B, 5]", inputs={"x": "f32[B, N, 3]"}, axes={"N": AxisSizes(step=8, example=16)})
    assert signature.sizes() == {"B": 2, "N": 16}
    assert signature.sizes(B=5) == {"B": 5, "N": 16}


DIFFERENCES = [
    ("f32[B, 8, H, W]", ["f32[B, 8, H, W]"], ("output", "tensor", "list of 1")),
    (["f32[B]"], ("f32[B]",), ("output", "list of 1", "tuple of 1")),
    ({"a": "f32[B]", "b": "f32[B]"}, {"b": "f32[B]", "a": "f32[B]"}, ("output", "dict of 2: a, b", "dict of 2: b, a")),
    ({"a": "f32[B]"}, {"a": "f32[B]", "b": "f32[B]"}, ("output", "dict of 1: a", "dict of 2: a, b")),
    ({"a": ["f32[B]"]}, {"a": [None]}, ("a.0", "tensor", "None")),
    ({"a": "f32[B]"}, {"a": "f64[B]"}, ("a", "f32", "f64")),
    ("f32[B, 8]", "f32[B, 8, 1]", ("output", "f32[B, 8]", "f32[B, 8, 1]")),
    ("f32[B, 8, H]", "f32[B, 8, 2*ceil(H/2)]", ("output, axis 2", "H", "2*ceil(H/2)")),
    ("i64[B, 4] index", "i64[B, 4]", ("output", "role index", "role other")),
    (f"{IMAGE} = inputs.x", IMAGE, ("output", "the tensor inputs.x itself", "another tensor")),
]


@pytest.mark.parametrize(("expected", "found", "fault"), DIFFERENCES)
def test_every_difference_names_the_place_what_was_expected_and_what_was_found(expected, found, fault):
    faults = written(expected).diff(written(found))
    assert fault in [(one.where, one.expected, one.found) for one in faults]


def test_all_differences_are_said_at_once():
    one = written({"a": "f32[B, 8, H, W]", "b": "i32[B]"})
    other = written({"a": "f32[B, 9, H, ceil(W/2)]", "b": "i64[B]"})
    assert [fault.where for fault in one.diff(other)] == ["a, axis 1", "a, axis 3", "b"]


def test_an_axis_that_the_other_cannot_take_is_a_difference():
    one = written("f32[B]", H=AxisSizes(example=64))
    other = written("f32[B]", H=AxisSizes(step=32, example=64))
    (fault,) = one.diff(other)
    assert (fault.where, fault.expected, fault.found) == ("input axis H", "any size", "multiples of 32")
    assert other.diff(one) == []


def test_an_invariant_that_does_not_hold_is_a_difference():
    rule = Gathering(values="inputs.x", stop=3, index="i", result="p")
    one = written({"i": "i32[B, 4] index", "p": "f32[B, 4, 3] coordinate"}).model_copy(update={"invariants": (rule,)})
    (fault,) = one.diff(one.model_copy(update={"invariants": ()}))
    assert (fault.where, fault.expected) == ("i", "gather(inputs.x[..., :3], 1, i) == p")


def test_dims_that_are_equal_at_every_legal_size_are_no_difference():
    axes = {"H": AxisSizes(step=32, example=64), "W": AxisSizes(step=0, example=224)}
    up, down = Dim.parse("ceil(H/16)"), Dim.parse("floor(H/16)")
    assert up != down
    assert equal_where_legal(up, down, axes)
    assert equal_where_legal(Dim.parse("floor(W/16)"), Dim(14), axes)
    assert not equal_where_legal(up, down, {"H": AxisSizes(example=64)})
    assert not equal_where_legal(Dim.parse("ceil(H/64)"), Dim.parse("floor(H/64)"), axes)


axis_sizes = st.builds(
    lambda step, units, smallest, offset: AxisSizes(
        step=step,
        offset=offset % step if step else 0,
        smallest=smallest,
        example=max(units * step + (offset % step if step else units), 1),
    ),
    st.integers(0, 40),
    st.integers(1, 9),
    st.integers(1, 60),
    st.integers(0, 39),
)


@SETTINGS
@given(axis_sizes, st.integers(1, 500))
def test_the_nearest_legal_size_is_legal_and_the_first_from_there_on(axis, size):
    near = axis.near(size)
    if axis.step:
        assert near in axis
        assert near >= size
        assert not any(other in axis for other in range(size, near))
    else:
        assert near == axis.example


@SETTINGS
@given(axis_sizes, axis_sizes)
def test_an_axis_covers_another_when_every_size_of_it_is_legal(left, right):
    sizes = [right.example + right.step * units for units in range(50)]
    legal = all(size % left.step == left.offset if left.step else size == left.example for size in sizes)
    assert left.covers(right) == legal


@SETTINGS
@given(axis_sizes, st.integers(0, 99))
def test_a_legal_size_as_a_function_of_any_size_is_legal(axis, size):
    made = axis.as_dim("H").evaluate({"H": size})
    assert made % axis.step == axis.offset if axis.step else made == axis.example


def test_a_signature_is_saved_and_loaded(tmp_path):
    signature = written({"p3": "f32[B, 256, ceil(H/8), ceil(W/8)]", "n": 3, "none": None})
    signature.save(tmp_path / "old.json")
    assert aa.Signature.load(tmp_path / "old.json") == signature


CORRUPT = {
    "not JSON": ("{", "not JSON"),
    "another object": ('{"a": 1}', "schema version None"),
    "another version": ('{"schema_version": 7}', "schema version 7"),
    "a list": ("[1]", "schema version None"),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_file_is_refused_by_its_path_with_the_reason_and_a_remedy(name, tmp_path):
    text, reason = CORRUPT[name]
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(aa.SignatureError) as caught:
        aa.Signature.load(path)
    said = str(caught.value)
    assert f"{path} holds no signature" in said
    assert "a signature of schema version 1" in said
    assert reason in said
    assert "aa.capture(module, x).save(path)" in said


def test_a_file_with_a_broken_dim_is_refused(tmp_path):
    path = tmp_path / "old.json"
    written("f32[B, 8, ceil(H/8)]").save(path)
    path.write_text(path.read_text().replace("ceil(H/8)", "ceil(H/"))
    with pytest.raises(aa.SignatureError, match="holds no signature"):
        aa.Signature.load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(aa.SignatureError, match=r"missing\.json cannot be read"):
        aa.Signature.load(tmp_path / "missing.json")


def test_bytes_are_refused(tmp_path):
    path = tmp_path / "old.json"
    path.write_bytes(b"\x80\x04\xff")
    with pytest.raises(aa.SignatureError, match="cannot be read"):
        aa.Signature.load(path)


def test_two_equal_signatures_write_the_same_file(tmp_path):
    axes = {"H": AxisSizes(step=2, example=8), "B": AxisSizes(example=2), "W": AxisSizes(example=8)}
    written("f32[B]", **axes).save(tmp_path / "one.json")
    written("f32[B]", **dict(reversed(axes.items()))).save(tmp_path / "other.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()


def test_a_hand_written_tree_is_that_of_the_value():
    texts = {"a": ["f32[B]", None, 3], "b": ("f32[B]", "f32[B]")}
    tree = Values.parse(texts).tree
    values, _ = flatten({"a": [__import__("torch").zeros(1), None, 3], "b": (__import__("torch").zeros(1),) * 2})
    assert tree == values


def test_an_ordered_dict_of_texts_stays_one():
    assert Values.parse(OrderedDict(a="f32[B]")).tree.kind == "ordered_dict"


def test_a_copy_with_other_leaves_gives_those_by_path_and_is_worth_what_was_never_looked_at():
    looked_at, fresh = (Values.parse({"a": "f32[B, 3]", "b": "f32[B]"}) for _ in range(2))
    assert [str(looked_at[path]) for path in looked_at.paths] == ["f32[B, 3]", "f32[B]"]
    turned = looked_at.model_copy(update={"leaves": looked_at.leaves[::-1]})
    assert [str(turned[path]) for path in turned.paths] == ["f32[B]", "f32[B, 3]"]
    assert looked_at == fresh
    assert hash(looked_at) == hash(fresh)
    assert looked_at.model_dump_json() == fresh.model_dump_json()
    with pytest.raises(KeyError):
        looked_at["c"]


def test_leaves_are_found_by_path_without_a_walk_through_all_of_them(monkeypatch):
    walks = []
    monkeypatch.setattr(values, "path_texts", lambda tree: walks.append(tree) or path_texts(tree))
    many = Values.parse(["f32[B]"] * 50)
    for path in many.paths:
        assert many[path].dtype == "f32"
    assert len(walks) == 1
