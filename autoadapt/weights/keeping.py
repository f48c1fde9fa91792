"""Keeping: which old row each new one is, said by the caller as indices or by the name of a well-known order.

The table of orders is `orders.json`: joints by name, and subsets as indices into what they are of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

from autoadapt.errors import Mismatch, TransferError, nearest
from autoadapt.weights.patterns import Pattern, pattern_text

Rows: TypeAlias = tuple[int | None, ...]
"""The old index of each new row; nothing where a row has no old one."""
Keep: TypeAlias = "Mapping[Pattern, str | Sequence[int | None]]"
"""Old indices in the new order, or `"coco->crowdpose"`, by pattern of names."""


@dataclass(frozen=True)
class Kept:
    """What the caller keeps.

    Args:
        rows: The old index of each new thing.
        old: How many old things there are; nothing where the caller gave indices.
    """

    rows: Rows
    old: int | None = None

    def counts(self, old: int) -> bool:
        """Whether these can be the rows of so many old things."""
        return old == self.old if self.old is not None else old > max(row for row in self.rows if row is not None)


@cache
def orders() -> dict[str, Kept]:
    """All known changes of order, by name.

    Example:
        >>> orders()["coco->crowdpose"]
        Kept(rows=(5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, None, None), old=17)
        >>> orders()["imagenet->imagenette"].rows[:3]
        (0, 217, 482)
    """
    table: dict[str, Any] = json.loads(files("autoadapt.weights").joinpath("orders.json").read_text(encoding="utf-8"))
    found: dict[str, Kept] = {}
    for old, before in table["joints"].items():
        at = {joint: index for index, joint in enumerate(before)}
        for new, after in table["joints"].items():
            if old != new:
                found[f"{old}->{new}"] = Kept(tuple(at.get(joint) for joint in after), len(before))
    for name, subset in table["subsets"].items():
        found[f"{subset['of']}->{name}"] = Kept(tuple(subset["indices"]), table["sizes"][subset["of"]])
    return found


def read_keep(keep: Keep) -> dict[Pattern, Kept]:
    """Read the argument `keep`.

    Raises:
        TransferError: If an order is unknown, or indices are negative or said twice.
    """
    faults: list[Mismatch] = []
    rows: dict[Pattern, Kept] = {}
    for pattern, value in keep.items():
        found = orders().get(value) if isinstance(value, str) else Kept(tuple(value))
        if found is None or (fault := _fault(found.rows)):
            faults.append(_unknown(pattern, str(value)) if found is None else _malformed(pattern, fault))
        else:
            rows[pattern] = found
    if faults:
        raise TransferError("keep is malformed", faults)
    return rows


def _fault(rows: Sequence[object]) -> str:
    wrong = [row for row in rows if row is not None and (type(row) is not int or row < 0)]
    known = [row for row in rows if row is not None]
    if wrong or not known:
        return repr(wrong[0]) if wrong else "no index"
    doubled = [row for row in known if known.count(row) > 1] if len(set(known)) < len(known) else []
    return f"{doubled[0]} twice" if doubled else ""


def _malformed(pattern: Pattern, found: str) -> Mismatch:
    where = f"keep, {pattern_text(pattern)}"
    return Mismatch(where, "old indices from 0 on, or None, in the new order", found, 'keep={"head.*": [5, 6, None]}')


def _unknown(pattern: Pattern, value: str) -> Mismatch:
    close = nearest(value, orders(), count=1)
    remedy = "\n".join(f'keep={{"{pattern_text(pattern)}": "{name}"}}' for name in close)
    return Mismatch(f"keep, {pattern_text(pattern)}", f"indices, or one of {', '.join(orders())}", repr(value), remedy)
