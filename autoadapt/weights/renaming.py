"""Renaming: what the caller says about names, read at the door."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from autoadapt.errors import Mismatch, TransferError, nearest
from autoadapt.weights.dialects import DIALECTS, Dialect, Rule

Rename: TypeAlias = "str | Dialect | Mapping[str, str] | Sequence[str | Dialect | Rule | tuple[str, str]] | None"
"""Rewrite rules (`{regex: replacement}`), the name of a dialect, a dialect, or a list of these."""


@dataclass(frozen=True)
class Renaming:
    """Rewrite rules, and dialects to use instead of the built-in ones."""

    rules: tuple[Rule, ...] = ()
    dialects: tuple[Dialect, ...] = ()


def read_renaming(rename: Rename) -> Renaming:
    """Read the argument `rename`.

    Raises:
        TransferError: If a rule is malformed or a dialect unknown.

    Example:
        >>> read_renaming({"^old": "new"}).rules
        (Rule(pattern='^old', replacement='new'),)
    """
    parts: Sequence[object]
    match rename:
        case None:
            parts = ()
        case str() | Dialect():
            parts = (rename,)
        case Mapping():
            parts = tuple(rename.items())
        case _:
            parts = tuple(rename)
    rules = tuple(_rule(part) for part in parts if not isinstance(part, str | Dialect))
    dialects = tuple(_dialect(part) for part in parts if isinstance(part, str | Dialect))
    return Renaming(rules, dialects)


def _rule(part: object) -> Rule:
    try:
        match part:
            case Rule():
                rule = part
            case (str(pattern), str(replacement)):
                rule = Rule(pattern=pattern, replacement=replacement)
            case _:
                raise ValueError("neither a rule nor a pair of texts")
        # The replacement can be wrong as well (a group that is not there).
        re.compile(rule.pattern + "|").sub(rule.replacement, "")
    except (re.error, ValueError) as error:
        fault = Mismatch(f"rename, {part!r}", "a regex and its replacement", str(error), 'rename={r"^old\\.": "new."}')
        raise TransferError("a rewrite rule is malformed", [fault]) from error
    return rule


def _dialect(part: str | Dialect) -> Dialect:
    if isinstance(part, Dialect):
        return part
    known = {dialect.name: dialect for dialect in DIALECTS}
    if part not in known:
        remedy = "\n".join(f'rename="{name}"' for name in nearest(part, known, count=1))
        fault = Mismatch("rename", f"one of {', '.join(known)}", repr(part), remedy)
        raise TransferError("unknown dialect", [fault])
    return known[part]
