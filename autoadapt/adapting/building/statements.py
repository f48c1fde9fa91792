"""Statements: assignments and calls of a forward pass, and how they are written as lines of code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoadapt.adapting.building.expressions import Bracketed, Expression, flat, lines_of, prose


@dataclass(frozen=True)
class Statement:
    """One statement: an assignment, or a call for its effect alone."""

    targets: tuple[str, ...]
    """The variables; none for a call."""
    values: tuple[Expression, ...]
    comment: str = ""
    is_size: bool = False
    """Whether it reads the size of an input axis."""
    is_result: bool = False
    """Whether it is the first assignment of the variable that is returned."""


def statement_lines(statement: Statement, room: int, result_type: str) -> list[str]:
    """The lines of a statement, of at most `room` columns where it can be broken.

    Args:
        statement: What is written.
        room: Columns of a line.
        result_type: Annotation of the variable that is returned; none where empty.
    """
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
    """The lines of a comment above a statement."""
    lines: list[str] = []
    for word in comment.split():
        if lines and len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(f"# {word}")
    return lines


def return_lines(returned: Expression, room: int) -> list[str]:
    """The lines of a return statement; a tuple is written without brackets if it fits on one line."""
    is_tuple = isinstance(returned, Bracketed) and not returned.head and returned.opening == "("
    if is_tuple and isinstance(returned, Bracketed) and returned.items:
        line = "return " + flat(returned)[1:-1]
        if len(line) <= room and len(returned.items) > 1:
            return [line]
    return lines_of("return ", returned, "", room)


def merged(statements: list[Statement]) -> Iterator[Statement]:
    """The statements, with consecutive ones that read sizes merged into one assignment."""
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
