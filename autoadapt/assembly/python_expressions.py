"""Expressions of plain data in a Python config: slices, comprehensions, texts with values in them, and what counts.

The functions that configs use on their own lists are computed here, each by its meaning; no other can be called.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Keys: TypeAlias = tuple[str | int, ...]
"""Where something stands in a config: `("head", "num_classes")`."""

Value: TypeAlias = Callable[[ast.expr, Keys], Any]
"""What an expression is, put at a place; raises `NotDataError` where it is more than data."""

_COUNTING = ("int", "len", "list", "max", "min", "range", "round", "sum", "tuple")
"""The functions that a config may call on its data."""


class NotDataError(Exception):
    """An expression inside is more than data, which was noted with its line."""


def computed(node: ast.expr, keys: Keys, value: Value, names: dict[str, Any], most: int) -> Any:
    """What an expression makes of data, or nothing where it is none of those that are read.

    Args:
        node: The expression.
        keys: Where it stands.
        value: Reads the expressions inside it.
        names: What `value` knows; a comprehension's own names are in it while that is read, as in Python.
        most: Entries that it may have.

    Raises:
        NotDataError: An expression inside is none that is read.
    """
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return combined(ast.Mult(), -1, value(inner, keys), most=0)
        case ast.BinOp(left=left, op=sign, right=right):
            return combined(sign, value(left, keys), value(right, keys), most=most)
        case ast.Subscript(value=whole, slice=ast.Slice(lower=lower, upper=upper, step=step)):
            bounds = [None if each is None else value(each, keys) for each in (lower, upper, step)]
            return sliced(value(whole, keys), bounds)
        case ast.ListComp(elt=each, generators=loops) | ast.GeneratorExp(elt=each, generators=loops):
            return [value(each, (*keys, i)) for i, _ in enumerate(_turns(loops, keys, value, names))]
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _COUNTING and name not in names:
            return called(name, [value(each, keys) for each in given], most=most)
        case ast.JoinedStr(values=parts):
            return _text([_shown(part, keys, value) for part in parts])
    return None


def _turns(loops: Sequence[ast.comprehension], keys: Keys, value: Value, names: dict[str, Any]) -> Iterator[None]:
    """Every turn of a comprehension, with its names in place."""
    if not loops:
        yield
        return
    first, own = loops[0], {node.id for node in ast.walk(loops[0].target) if isinstance(node, ast.Name)}
    turns = None if first.ifs or first.is_async else _bound(first.target, value(first.iter, keys))
    if turns is None:
        raise NotDataError
    outer = {name: names[name] for name in own & names.keys()}
    try:
        for turn in turns:
            names |= turn
            yield from _turns(loops[1:], keys, value, names)
    finally:
        for name in own:
            names.pop(name, None)
        names |= outer


def _shown(part: ast.expr, keys: Keys, value: Value) -> Any:
    """A piece of an f-string: a text, or a value that is written as it is."""
    plain = isinstance(part, ast.FormattedValue) and part.conversion == -1 and part.format_spec is None
    inner = part.value if isinstance(part, ast.FormattedValue) else part
    return value(inner, keys) if plain or isinstance(part, ast.Constant) else None


def sliced(value: Any, bounds: Sequence[Any]) -> Any:
    """A part of a list, tuple or text, or nothing where there is none.

    Args:
        value: The whole.
        bounds: Start, stop and step, each a number or none.

    Example:
        >>> sliced([123.7, 116.3, 103.5], (None, None, -1)), sliced("coco2017", (-4, None, None))
        ([103.5, 116.3, 123.7], '2017')
    """
    whole = all(bound is None or type(bound) is int for bound in bounds) and bounds[2] != 0
    return value[slice(*bounds)] if whole and isinstance(value, (list, tuple, str)) else None


def called(name: str, arguments: Sequence[Any], *, most: int) -> Any:
    """What one of the functions gives, or nothing where it would not be a count or a list of data.

    Args:
        name: Of the function.
        arguments: What it is called with.
        most: Entries that a range may have.

    Example:
        >>> called("sum", [[18, 36, 72, 144]], most=9), called("range", [10**9], most=9)
        (270, None)
    """
    if name == "range":
        whole = 1 <= len(arguments) <= 3 and all(type(each) is int for each in arguments) and arguments[2:] != [0]
        found = range(*arguments) if whole else None
        return list(found) if found is not None and len(found) <= most else None
    if name in ("int", "round"):
        number = len(arguments) == 1 and type(arguments[0]) in (int, float) and math.isfinite(arguments[0])
        return (int(arguments[0]) if name == "int" else round(arguments[0])) if number else None
    values = arguments[0] if len(arguments) == 1 else arguments if name in ("max", "min") else None
    if not isinstance(values, (list, tuple)):
        return None
    numbers = all(type(each) in (int, float) for each in values)
    match name:
        case "len":
            return len(values)
        case "list" | "tuple":
            return list(values) if name == "list" else tuple(values)
        case "sum" if numbers:
            return functools.reduce(lambda a, b: combined(ast.Add(), a, b, most=most), values, 0)
        case "max" | "min" if numbers and values:
            return max(values) if name == "max" else min(values)
    return None


def _text(parts: Sequence[Any]) -> str | None:
    """Texts and numbers one after the other, or nothing where they are others, or too many."""
    if not all(type(part) in (str, int, float) for part in parts):
        return None
    made = "".join(map(str, parts))
    return made if len(made) <= LONGEST_TEXT else None


def _bound(target: ast.expr, values: Any) -> Iterator[Mapping[str, Any]] | None:
    """The names that a comprehension gives to each value in turn, or nothing where that is more than data."""
    if not isinstance(values, (list, tuple)):
        return None
    if isinstance(target, ast.Name):
        return ({target.id: value} for value in values)
    names = [each.id for each in target.elts if isinstance(each, ast.Name)] if isinstance(target, ast.Tuple) else []
    fit = all(isinstance(value, (list, tuple)) and len(value) == len(names) for value in values)
    if not isinstance(target, ast.Tuple) or len(names) < len(target.elts) or not fit:
        return None
    return (dict(zip(names, value, strict=True)) for value in values)


_NUMBERS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
LONGEST_TEXT = 1 << 16
"""Characters of a text that is put together: names that hold one another could double it line by line."""

_LARGEST = 10**18
_HIGHEST = 64
"""Of exponents."""


def combined(sign: ast.operator, left: Any, right: Any, *, most: int) -> Any:
    """What Python makes of two values, or nothing where that is no plain arithmetic.

    Args:
        sign: The operator.
        left: A number, text, list or tuple.
        right: Another.
        most: Entries that a repeated list may have.

    Example:
        >>> combined(ast.Add(), 5, 2, most=9), combined(ast.Add(), "data/", "train", most=9)
        (7, 'data/train')
        >>> combined(ast.Mult(), [0], 10**9, most=9), combined(ast.Div(), 1, 0, most=9)
        (None, None)
        >>> combined(ast.Pow(), 2, 3, most=9), combined(ast.Pow(), 10, 10**9, most=9)
        (8, None)
    """
    act = _NUMBERS.get(type(sign))
    if act is None:
        return None
    if _is_number(left) and _is_number(right):
        if isinstance(sign, ast.Pow) and abs(right) > _HIGHEST:
            return None  # before it is computed
        try:
            made = act(left, right)
        except (ArithmeticError, ValueError):
            return None
        real = not isinstance(made, complex) and math.isfinite(made) and abs(made) <= _LARGEST
        return made if real else None
    if isinstance(sign, ast.Add) and type(left) is type(right) and isinstance(left, (str, list, tuple)):
        return left + right if len(left) + len(right) <= (LONGEST_TEXT if isinstance(left, str) else most) else None
    if isinstance(sign, ast.Mult) and isinstance(left, (list, tuple)) and type(right) is int:
        return left * right if len(left) * right <= most else None
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST
