"""Expressions: pieces of Python on as many lines as they take.

What does not fit into a line is broken as ruff and black break it, each item on a line of its own with a comma behind
the last, so that the text is formatted at any line length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from autoadapt.errors.printable import visible

__all__ = [
    "INDENT",
    "WIDTH",
    "Bracketed",
    "Expression",
    "Text",
    "constant",
    "flat",
    "group",
    "lines_of",
    "prose",
    "quoted",
]

WIDTH = 88
"""Columns of a line, as black and ruff have it by default."""
INDENT = 4


@dataclass(frozen=True)
class Text:
    """An expression that stays on one line."""

    text: str
    level: int = 9
    """How tightly it binds: a sum 1, a product 2, anything closed 9."""
    depth: int = 0
    """Calls within calls."""


@dataclass(frozen=True)
class Bracketed:
    """Items between brackets, behind what is called or indexed, if anything is."""

    head: str
    opening: str
    items: tuple[tuple[str, Expression], ...]
    """Each with what stands before it: `size=`, `"p2": `."""
    closing: str
    depth: int = 0
    level: int = 9


Expression: TypeAlias = Text | Bracketed


def _plain(value: Any) -> Text:
    match value:
        case str():
            return Text(quoted(value))
        case float() if not math.isfinite(value):
            return Text(f'float("{value}")')
        case _:
            return Text("..." if value is ... else repr(value))


def constant(value: Any) -> Expression:
    """A value of plain containers, numbers and texts as an expression."""
    match value:
        case dict():
            return group("{", [(f"{flat(constant(key))}: ", constant(item)) for key, item in value.items()], "}")
        case list():
            return group("[", [("", constant(item)) for item in value], "]")
        case tuple():
            return group("(", [("", constant(item)) for item in value], ")")
        case _:
            return _plain(value)


def quoted(text: str) -> str:
    """A text between double quotes, as formatters have it.

    Example:
        >>> print(quoted("p2"), quoted("it's"), quoted('an "a"'))
        "p2" "it's" 'an "a"'
    """
    plain = repr(text)
    if plain[0] == '"' or '"' in text:
        return plain
    return f'"{plain[1:-1]}"'


def prose(text: str) -> str:
    """Words as they may stand in a docstring or a comment: nothing in them ends it.

    Example:
        >>> print(prose(chr(34) * 3 + " ends"))
        ''' ends
    """
    return visible(text).replace("\\", "/").replace('"""', "'''")


def group(opening: str, items: list[tuple[str, Expression]], closing: str) -> Bracketed:
    """Items between brackets, each with what stands before it; what is called stands before the opening bracket."""
    head, bracket = opening[:-1], opening[-1]
    return Bracketed(head, bracket, tuple(items), closing, max((item.depth for _, item in items), default=0))


def flat(expression: Expression) -> str:
    """An expression on one line."""
    if isinstance(expression, Text):
        return expression.text
    inner = ", ".join(before + flat(item) for before, item in expression.items)
    comma = "," if not expression.head and expression.opening == "(" and len(expression.items) == 1 else ""
    return f"{expression.head}{expression.opening}{inner}{comma}{expression.closing}"


def lines_of(before: str, expression: Expression, after: str, room: int) -> list[str]:
    """An expression on as many lines as it takes.

    Args:
        before: What stands before it on its first line.
        expression: What is written.
        after: What stands behind it on its last line.
        room: Columns that there are.
    """
    line = before + flat(expression) + after
    if len(line) <= room or isinstance(expression, Text) or not expression.items:
        return [line]
    inner = [lines_of(name, item, ",", room - INDENT) for name, item in expression.items]
    indented = [" " * INDENT + line for lines in inner for line in lines]
    return [before + expression.head + expression.opening, *indented, expression.closing + after]
