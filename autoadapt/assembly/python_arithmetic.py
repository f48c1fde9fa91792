"""Arithmetic of the data in a Python config: numbers, and texts, lists and tuples joined. Nothing can grow large."""

from __future__ import annotations

import ast
import math
import operator
from typing import Any

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
