"""Expressions: Python expressions as text, on as many lines as needed.

An expression that does not fit into a line is broken as ruff and black do it: each item on its own line, with a comma
after the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from autoadapt.errors.printable import visible

WIDTH = 88
"""Columns of a line, the default of black and ruff."""
INDENT = 4


@dataclass(frozen=True)
class Text:
    """An expression that stays on one line."""

    text: str
    level: int = 9
    """Precedence: 1 for a sum, 2 for a product, 9 for what never needs brackets."""
    depth: int = 0
    """How deeply calls are nested in it."""


@dataclass(frozen=True)
class Bracketed:
    """Items between brackets: a call, or a tuple, list or dict."""

    head: str
    """What is called; empty for a container."""
    opening: str
    items: tuple[tuple[str, Expression], ...]
    """Each item with the text before it, such as `size=` or `"p2": `."""
    closing: str
    depth: int = 0
    """How deeply calls are nested in it."""
    level: int = 9
    """Precedence, as that of `Text`."""


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
    """The expression of a value: nested dicts, lists and tuples of numbers and texts."""
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
    """A string literal in double quotes, as formatters write it.

    Example:
        >>> print(quoted("p2"), quoted("it's"), quoted('an "a"'))
        "p2" "it's" 'an "a"'
    """
    plain = repr(text)
    if plain[0] == '"' or '"' in text:
        return plain
    return f'"{plain[1:-1]}"'


def prose(text: str) -> str:
    """A text that can be put into a docstring or a comment without ending it.

    Example:
        >>> print(prose(chr(34) * 3 + " ends"))
        ''' ends
    """
    return visible(text).replace("\\", "/").replace('"""', "'''")


def group(opening: str, items: list[tuple[str, Expression]], closing: str) -> Bracketed:
    """A `Bracketed` expression.

    Args:
        opening: What is called, if anything, and the opening bracket.
        items: Each with the text before it.
        closing: The closing bracket.
    """
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
    """An expression on as many lines as needed.

    Args:
        before: Text before it on its first line.
        expression: What is written.
        after: Text after it on its last line.
        room: Columns of a line.
    """
    line = before + flat(expression) + after
    if len(line) <= room or isinstance(expression, Text) or not expression.items:
        return [line]
    inner = [lines_of(name, item, ",", room - INDENT) for name, item in expression.items]
    indented = [" " * INDENT + line for lines in inner for line in lines]
    return [before + expression.head + expression.opening, *indented, expression.closing + after]
