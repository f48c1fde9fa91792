"""Trees take any value apart and put it together again, and know every container there is."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings, strategies as st
from small_models import Pair, Record
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from autoadapt.contracts.trees import (
    Constant,
    Container,
    Opaque,
    Slot,
    build_container,
    find_type,
    flatten,
    path_text,
    paths,
    rebuild,
    type_path,
)
from autoadapt.errors import SignatureError

SETTINGS = settings(derandomize=True, deadline=None, max_examples=100, database=None)

constants = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3)
)
tensors = st.integers(0, 9).map(lambda number: torch.full((2,), number))
keys = st.text("abc.", min_size=1, max_size=2)


def containers(children):
    pairs = st.tuples(children, children)
    return st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(keys, children, max_size=3),
        st.dictionaries(keys, children, max_size=3).map(OrderedDict),
        st.dictionaries(st.integers(0, 5), children, max_size=3),
        pairs.map(lambda pair: Pair(*pair)),
        pairs.map(lambda pair: Record(*pair)),
    )


values = st.recursive(st.one_of(constants, tensors), containers, max_leaves=8)


def same(left, right):
    if isinstance(left, torch.Tensor):
        return left is right
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Record):
        return same(left.fine, right.fine) and same(left.coarse, right.coarse)
    return left == right


@SETTINGS
@given(values)
def test_what_is_taken_apart_is_put_together_again_with_the_same_tensors(value):
    tree, found = flatten(value)
    assert same(rebuild(tree, found), value)


@SETTINGS
@given(values)
def test_there_is_one_path_for_each_tensor(value):
    tree, found = flatten(value)
    assert len(paths(tree)) == len(found)


@SETTINGS
@given(values)
def test_a_tree_is_data_and_comes_back_from_json(value):
    tree, _ = flatten([value])
    assert Container.model_validate_json(tree.model_dump_json()) == tree


@SETTINGS
@given(values, values)
def test_trees_are_equal_when_containers_and_constants_are(left, right):
    tree, found = flatten(left)
    other, _ = flatten(right)
    if tree == other:
        assert same(rebuild(other, found), left)


def test_the_same_tensor_twice_stands_in_two_places():
    tensor = torch.zeros(1)
    tree, found = flatten({"a": tensor, "b": [tensor]})
    assert [path_text(path) for path in paths(tree)] == ["a", "b.0"]
    assert all(one is tensor for one in found)


def test_a_bare_tensor_is_called_output():
    tree, _ = flatten(torch.zeros(1))
    assert tree == Slot()
    assert [path_text(path) for path in paths(tree)] == ["output"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ((1,), "tuple"),
        ([1], "list"),
        ({"a": 1}, "dict"),
        (OrderedDict(a=1), "ordered_dict"),
        (UserDict(a=1), "mapping"),
        (Pair(1, 2), "named_tuple"),
        (Record(1, 2), "dataclass"),
        (BaseModelOutput(last_hidden_state=torch.zeros(1)), "model_output"),
        (torch.Size([1, 2]), "sequence"),
        (torch.zeros(3).sort(), "sequence"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_kind_of_container_is_known(value, kind):
    assert flatten(value)[0].kind == kind


def test_true_and_one_are_different_constants():
    assert flatten(True)[0] == Constant(value=True)
    assert flatten([True])[0] != flatten([1])[0]
    assert flatten(1)[0] != flatten(1.0)[0]


def test_model_outputs_come_back_as_their_class_with_the_absent_entries_absent():
    value = BaseModelOutputWithPooling(last_hidden_state=torch.zeros(1), hidden_states=(torch.ones(1), torch.ones(2)))
    tree, found = flatten(value)
    assert [path_text(path) for path in paths(tree)] == ["last_hidden_state", "hidden_states.0", "hidden_states.1"]
    again = rebuild(tree, found)
    assert type(again) is BaseModelOutputWithPooling
    assert list(again) == ["last_hidden_state", "hidden_states"]
    assert again.pooler_output is None
    assert again.last_hidden_state is found[0]


def test_an_object_with_unknown_parts_is_noted_and_never_made():
    tree, found = flatten([torch.zeros(1), object()])
    assert tree.children[1] == Opaque(type="builtins:object")
    with pytest.raises(SignatureError, match="a builtins:object cannot be made anew"):
        rebuild(tree, found)


def test_a_key_that_no_path_can_name_is_refused():
    with pytest.raises(SignatureError, match=r"no path can name dict\[\(1, 2\)\]") as caught:
        flatten({(1, 2): torch.zeros(1)})
    assert "keys that are texts or integers" in str(caught.value)
    assert "a tuple" in str(caught.value)


def test_a_class_is_found_only_among_what_is_imported():
    assert find_type(type_path(Pair)) is Pair
    assert find_type("small_models:Record") is Record
    for name in ("not_imported_anywhere:Thing", "small_models:Missing", "small_models:image", "os:system"):
        with pytest.raises(SignatureError, match="is not known"):
            find_type(name)


def test_the_error_of_an_unknown_class_says_what_to_import():
    container = Container(kind="named_tuple", type="detector.outputs:Levels", keys=("a",), children=(Slot(),))
    with pytest.raises(SignatureError) as caught:
        build_container(container, [1])
    assert str(caught.value).splitlines() == [
        "the container class Levels is not known",
        "detector.outputs:Levels",
        "  expected  a class that is imported",
        "  found     nothing of that name",
        "  try       import detector.outputs  # first",
    ]


Outer = namedtuple("Outer", ["inner"])


class Holder:
    """A class that holds another."""

    class Nested(tuple):
        """A plain subclass of tuple."""


def test_nested_classes_are_named_by_their_qualified_name():
    assert type_path(Holder.Nested) == f"{__name__}:Holder.Nested"
    assert find_type(type_path(Holder.Nested)) is Holder.Nested


def test_containers_in_named_tuples_are_taken_apart():
    tree, _ = flatten(Outer([torch.zeros(1), {"x": torch.zeros(1)}]))
    assert [path_text(path) for path in paths(tree)] == ["inner.0", "inner.1.x"]


@dataclass
class WithState:
    """A dataclass with a field that its constructor does not take."""

    fine: torch.Tensor
    made: int = field(init=False, default=3)


def test_a_dataclass_comes_back_through_its_constructor():
    tree, found = flatten(WithState(torch.zeros(1)))
    again = rebuild(tree, found)
    assert again.made == 3
    assert again.fine is found[0]


class ListOfLevels(list):
    """A list class of one's own."""


class DictOfLevels(dict):
    """A dict class of one's own."""


@pytest.mark.parametrize(
    "value",
    [ListOfLevels([torch.zeros(1)]), DictOfLevels(a=torch.zeros(1)), torch.Size([1, 2]), torch.zeros(3).sort()],
    ids=["list", "dict", "size", "sort"],
)
def test_a_class_of_ones_own_comes_back_as_that_class(value):
    tree, found = flatten(value)
    again = rebuild(tree, found)
    assert type(again) is type(value)
    assert flatten(again)[0] == tree
    assert all(map(torch.equal, found, flatten(again)[1]))


@pytest.mark.parametrize("kind", ["dataclass", "named_tuple", "model_output", "mapping", "sequence"])
def test_data_cannot_have_a_class_called_that_is_no_such_container(kind):
    import subprocess

    tree = Container(kind=kind, type=f"subprocess:{subprocess.Popen.__name__}", keys=("args",), children=(Slot(),))
    with pytest.raises(SignatureError, match="subprocess:Popen is no"):
        rebuild(tree, [["touch", "run"]])


def test_a_container_that_holds_itself_is_taken_apart_up_to_there():
    value = {"a": torch.zeros(1)}
    value["again"] = [value]
    tree, found = flatten(value)
    assert [path_text(path) for path in paths(tree)] == ["a"]
    assert len(found) == 1
    with pytest.raises(SignatureError, match="a builtins:dict that holds itself cannot be made anew"):
        rebuild(tree, found)


def test_one_container_in_two_places_does_not_hold_itself():
    inner = [torch.zeros(1)]
    assert len(flatten({"a": inner, "b": inner})[1]) == 2


def test_keys_that_no_path_can_name_stand_as_texts_where_that_is_asked_for():
    value = {("disp", 0): torch.zeros(1), b"raw": torch.zeros(2)}
    assert [path_text(path) for path in paths(flatten(value, any_keys=True)[0])] == ["('disp', 0)", "b'raw'"]
    with pytest.raises(SignatureError, match="no path can name"):
        flatten(value)
