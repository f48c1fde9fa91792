"""The text of a dim is short, and reads back as the same dim."""

import pytest
from dims_expressions import expressions
from hypothesis import given, settings

from autoadapt.contracts.dims import Dim
from autoadapt.errors import SignatureError


@settings(derandomize=True, deadline=None, max_examples=200, database=None)
@given(expressions())
def test_what_is_printed_reads_back_as_the_same_dim(expression):
    dim = expression[0]
    read = Dim.parse(str(dim))
    assert read == dim
    assert str(read) == str(dim)


@pytest.mark.parametrize(
    "text",
    [
        "H",
        "256",
        "0",
        "-5",
        "ceil(H/32)",
        "2*ceil(H/32)",
        "floor(H/14)*floor(W/14) + 1",
        "49*B*floor(H/7)*floor(W/7)",
        "ceil((H - 1)/32)",
        "ceil(H/2) - 2",
        "max(7, floor(H/32)) - 6",
        "floor(3*H/2)",
        "ceil((2*ceil(H/4) - 1)/3)",
        "(2*floor(H/2) + 1)*(W + 3)",
        "(ceil(H/2) - 2)*ceil(W/14) + 1",
        "B*ceil(H/8)*ceil(W/8) + B*ceil(H/16)*ceil(W/16)",
        "3 - H",
        "-H*W",
        "H*H - H + 1",
    ],
)
def test_common_forms_are_printed_as_they_are_written(text):
    assert str(Dim.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("H//32", "floor(H/32)"),
        ("H // 2 // 3", "floor(H/6)"),
        ("floor((3*H)/2)", "floor(3*H/2)"),
        ("floor((H - 3)/2)", "ceil(H/2) - 2"),
        ("max(floor(H/32), 7) - 6", "max(7, floor(H/32)) - 6"),
        ("-(H - 3)", "3 - H"),
        ("floor(-H/2)", "floor(-H/2)"),
        ("W*B*H", "B*H*W"),
        ("ceil(ceil(ceil(H/2)/2)/2)", "ceil(H/8)"),
        (" ( 2 ) ", "2"),
    ],
)
def test_other_spellings_are_read_too(text, printed):
    assert str(Dim.parse(text)) == printed
    assert repr(Dim.parse(text)) == f"Dim('{printed}')"


def test_an_integer_is_read_as_itself():
    assert Dim.parse(5) == 5


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("ceil(H/)", 8, "a divisor: an integer of 1 or more"),
        ("H + ", 4, "an integer, an axis, '(', 'floor', 'ceil' or 'max'"),
        ("", 1, "an integer, an axis, '(', 'floor', 'ceil' or 'max'"),
        ("H/2", 2, "an operator"),
        ("floor(H + 3/2)", 12, "an operator"),
        ("max(H, W)", 8, "a constant in one argument of max"),
        ("H//0", 4, "a divisor: an integer of 1 or more"),
        ("H//W", 4, "a divisor: an integer of 1 or more"),
        ("H $ 2", 3, "an integer, an axis, an operator or a parenthesis"),
        ("(H", 3, "')'"),
        ("H 2", 3, "an operator or the end of the text"),
        ("floor H", 7, "'(' after floor"),
        ("1" * 30, 1, "an integer of at most 18 digits"),
        ("(" * 60 + "H" + ")" * 60, 51, "at most 50 levels of nesting"),
        ("__import__('os')", 12, "an integer, an axis, an operator or a parenthesis"),
    ],
)
def test_a_bad_text_is_refused_with_the_column(text, column, expected):
    with pytest.raises(SignatureError) as refused:
        Dim.parse(text)
    (fault,) = refused.value.mismatches
    assert fault.where == f"column {column} of {text!r}"
    assert fault.expected == expected


def test_a_refusal_says_what_to_write_instead():
    with pytest.raises(SignatureError) as refused:
        Dim.parse("H/2")
    assert str(refused.value) == (
        "'H/2' is not a dim, from column 2\n"
        "column 2 of 'H/2'\n"
        "  expected  an operator\n"
        "  found     '/'\n"
        "  try       H//4, which rounds down, or ceil(H/4), which rounds up"
    )
