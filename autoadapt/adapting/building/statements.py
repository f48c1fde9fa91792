"""Statements: what a forward pass assigns, line by line, and how those lines are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoadapt.adapting.building.expressions import Bracketed, Expression, flat, lines_of, prose

__all__ = ["Statement", "merged", "return_lines", "statement_lines"]


@dataclass(frozen=True)
class Statement:
    """One statement: what is assigned, or nothing but an effect."""

    targets: tuple[str, ...]
    values: tuple[Expression, ...]
    comment: str = ""
    is_size: bool = False
    is_result: bool = False
    """Whether the name is returned as it is, and stands here for the first time."""


def statement_lines(statement: Statement, room: int, result_type: str) -> list[str]:
    """The lines of a statement, of at most `room` characters where it can be broken."""
    comment = prose(" ".join(statement.comment.split()))
    note = f"  # {comment}" if comment else ""
    if not statement.targets:
        return lines_of("", statement.values[0], "", room)
    annotation = f": {result_type}" if statement.is_result and result_type else ""
    before = f"{', '.join(statement.targets)}{annotation} = "
    if len(statement.values) > 1:
        return [before + ", ".join(map(flat, statement.values))]
    lines = lines_of(before, statement.values[0], "", room)
    if len(lines) == 1 and len(lines[0] + note) <= room:
        return [lines[0] + note]
    return [*_wrapped(comment, room), *lines]


def _wrapped(comment: str, room: int) -> list[str]:
    """A comment above a statement, in lines of a width."""
    lines: list[str] = []
    for word in comment.split():
        if lines and len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(f"# {word}")
    return lines


def return_lines(returned: Expression, room: int) -> list[str]:
    """The lines of a return; a tuple stands without brackets where it fits on one."""
    is_tuple = isinstance(returned, Bracketed) and not returned.head and returned.opening == "("
    if is_tuple and isinstance(returned, Bracketed) and returned.items:
        line = "return " + flat(returned)[1:-1]
        if len(line) <= room and len(returned.items) > 1:
            return [line]
    return lines_of("return ", returned, "", room)


def merged(statements: list[Statement]) -> Iterator[Statement]:
    """Statements, with the sizes that are read one after the other in one line."""
    sizes: list[Statement] = []
    for statement in [*statements, None]:
        if statement is not None and statement.is_size:
            sizes.append(statement)
            continue
        if sizes:
            yield Statement(tuple(one.targets[0] for one in sizes), tuple(one.values[0] for one in sizes))
            sizes = []
        if statement is not None:
            yield statement
