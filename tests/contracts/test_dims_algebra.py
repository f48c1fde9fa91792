"""Dim is exact: arithmetic, equality, hash and evaluation say what plain integers say."""

import copy
import itertools
import pickle
from fractions import Fraction

import pydantic
import pytest
import torch
from dims_expressions import AXES, expressions
from hypothesis import given, settings, strategies as st
from torch import fx

from autoadapt.contracts.dims import Dim
from autoadapt.errors import SignatureError

SETTINGS = settings(derandomize=True, deadline=None, max_examples=120, database=None)
sizes = st.fixed_dictionaries({axis: st.integers(0, 400) for axis in AXES})


class Holder(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    dim: Dim


@SETTINGS
@given(expressions(), sizes)
def test_evaluation_equals_python_arithmetic_of_the_same_expression(expression, at):
    dim, python = expression
    assert dim.evaluate(at) == python(at)


@SETTINGS
@given(expressions(depth=2), expressions(depth=2))
def test_equality_agrees_with_brute_force_and_hash_with_equality(left, right):
    points = [dict(zip(AXES, at, strict=True)) for at in itertools.product(range(0, 40, 3), range(41), (0, 1, 7))]
    same = all(left[1](at) == right[1](at) for at in points)
    if left[0] == right[0]:
        assert same
        assert hash(left[0]) == hash(right[0])
    if not same:
        assert left[0] != right[0]


@SETTINGS
@given(expressions(depth=3), st.integers(2, 12))
def test_splitting_a_dim_into_residues_gives_an_equal_dim_of_equal_hash(expression, parts):
    dim = expression[0]
    split = sum(((dim + shift) // parts for shift in range(parts)), start=Dim(0))
    assert split == dim
    assert hash(split) == hash(dim)
    assert split + 1 != dim


@SETTINGS
@given(expressions(), expressions(depth=1), sizes)
def test_substitution_commutes_with_evaluation(outer, inner, at):
    value = inner[1](at)
    assert outer[0].substitute({"H": inner[0]}).evaluate(at) == outer[0].evaluate({**at, "H": value})


@SETTINGS
@given(expressions(), sizes)
def test_terms_and_factors_multiply_out_to_the_dim(expression, at):
    dim, python = expression
    total = sum(c * int(torch.tensor([f.evaluate(at) for f in product] or [1]).prod()) for c, product in dim.terms)
    assert total == python(at)
    if dim.factors is not None:
        product = 1
        for factor in dim.factors:
            product *= factor.evaluate(at)
        assert product == python(at)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("H + floor(H/2)", "floor(3*H/2)"),
        ("floor(floor(H/2)/3)", "floor(H/6)"),
        ("floor(H/2) + ceil(H/2)", "H"),
        ("floor((6*H + 4)/8)", "floor((3*H + 2)/4)"),
        ("floor(max(7, H)/2)", "max(3, floor(H/2))"),
        ("max(0, H)", "H"),
        ("max(2, floor(H/5)) + max(2, floor(H/5))", "max(4, 2*floor(H/5))"),
        ("ceil(H/2)*W - floor(H/2)*W + floor(H/2)*W", "ceil(H/2)*W"),
    ],
)
def test_different_spellings_of_one_function_are_equal(left, right):
    assert Dim.parse(left) == Dim.parse(right)
    assert hash(Dim.parse(left)) == hash(Dim.parse(right))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("max(7, floor(H/32))", "max(7, floor((H + 1)/32))"),
        ("floor(H/255)", "floor((H + 1)/255)"),
        ("max(1, H)", "H"),
        ("floor(H/2)*floor(W/2)", "floor(H*W/4)"),
        ("H", "W"),
    ],
)
def test_functions_that_differ_somewhere_are_unequal(left, right):
    assert Dim.parse(left) != Dim.parse(right)


def test_a_dim_without_axes_is_its_integer():
    assert Dim(64) == 64
    assert hash(Dim(64)) == hash(64)
    assert Dim.parse("floor(H/2) + ceil(H/2) - H + 3").constant == 3
    assert Dim.parse("floor(H/2) + ceil(H/2) - H + 3").axes == frozenset()
    assert Dim.parse("H").constant is None
    assert Dim(Dim(5)) == 5
    assert Dim(5) != "5"


def test_factors_stand_in_the_order_of_the_axes():
    dim = Dim.parse("floor(W/7)*49*floor(H/7)*B")
    assert dim.factors == (49, Dim.axis("B"), Dim.parse("H//7"), Dim.parse("W//7"))
    assert Dim.parse("(2*floor(H/2) + 1)*(W + 3)").factors == (Dim.parse("2*(H//2) + 1"), Dim.parse("W + 3"))
    assert Dim.parse("H + W").factors is None


@pytest.mark.parametrize(
    ("text", "slope"),
    [
        ("ceil(H/32)", Fraction(1, 32)),
        ("floor(2*ceil(H/4)/3) - H", Fraction(-5, 6)),
        ("W + 3", Fraction(0)),
        ("max(7, floor(H/2))", Fraction(1, 2)),
        ("max(7, -H)", Fraction(0)),
        ("H*W", None),
        ("floor(H*W/2)", None),
        ("H*H", None),
    ],
)
def test_slope_is_the_growth_per_unit_at_large_sizes(text, slope):
    assert Dim.parse(text).slope("H") == slope


@SETTINGS
@given(expressions(depth=2))
def test_a_traced_graph_computes_the_right_number(expression):
    dim, python = expression

    class Sizes(torch.nn.Module):
        def forward(self, B, H, W):
            return dim.evaluate({"B": B, "H": H, "W": W})

    graph = fx.symbolic_trace(Sizes())
    assert graph(3, 45, 64) == python({"B": 3, "H": 45, "W": 64})


def test_a_traced_graph_reads_as_a_person_would_write_it():
    class Sizes(torch.nn.Module):
        def forward(self, height):
            return Dim.parse("2*ceil(H/32) - 1").evaluate({"H": height}) + Dim.parse("3 - H").evaluate({"H": height})

    code = fx.symbolic_trace(Sizes()).code
    names = [node.target.__name__ for node in fx.symbolic_trace(Sizes()).graph.nodes if node.op == "call_function"]
    assert names == ["add", "floordiv", "mul", "sub", "sub", "add"], code


def test_symbolic_sizes_flow_through_an_export():
    class Resize(torch.nn.Module):
        def forward(self, image_BCHW):
            height, width = image_BCHW.shape[2:]
            at = {"H": height, "W": width}
            size = [Dim.parse("max(3, ceil(H/4))").evaluate(at), Dim.parse("floor(3*W/2)").evaluate(at)]
            return torch.nn.functional.interpolate(image_BCHW, size=size)

    dynamic = {"image_BCHW": {2: torch.export.Dim("h", min=8, max=512), 3: torch.export.Dim("w", min=8, max=512)}}
    exported = torch.export.export(Resize(), (torch.zeros(2, 3, 32, 48),), dynamic_shapes=dynamic).module()
    assert exported(torch.zeros(2, 3, 101, 33)).shape == (2, 3, 26, 49)
    assert exported(torch.zeros(2, 3, 8, 9)).shape == (2, 3, 3, 13)


def test_a_dim_survives_pickle_copy_and_pydantic():
    dim = Dim.parse("max(7, floor(H/32)) - 6")
    assert pickle.loads(pickle.dumps(dim)) == dim
    assert copy.deepcopy(dim) == dim
    holder = Holder(dim="max(7, floor(H/32)) - 6")
    assert holder.dim == dim
    assert holder.model_dump_json() == '{"dim":"max(7, floor(H/32)) - 6"}'
    assert Holder.model_validate_json(holder.model_dump_json()) == holder
    assert Holder(dim=64).dim == 64
    assert Holder.model_json_schema()["properties"]["dim"]["type"] == "string"


def test_a_dim_is_immutable():
    with pytest.raises(AttributeError, match="a Dim is immutable: cannot set '_form'"):
        Dim(5)._form = None


def test_faults_name_what_was_expected_and_what_to_do():
    with pytest.raises(SignatureError) as missing:
        Dim.parse("ceil(H/32)").evaluate({"W": 3, "h": 4})
    assert str(missing.value) == (
        "ceil(H/32) needs the size of axis H\n"
        "axis H of ceil(H/32)\n"
        "  expected  a size\n"
        "  found     sizes of W, h\n"
        '  try       sizes["H"] = ...'
    )
    with pytest.raises(SignatureError, match="a dim cannot be divided by 0"):
        Dim.axis("H") // 0
    with pytest.raises(SignatureError, match="'max' cannot name an axis"):
        Dim.axis("max")
    with pytest.raises(SignatureError, match=r"3\.5 is not a dim"):
        Holder(dim=3.5)
