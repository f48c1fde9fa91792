"""Widths: what the layers of a model yield, before and after, which is what other layers read.

An axis that is read (the input of a layer, the channels of a norm) is the output of one layer, or several side by side.
Where it changes as no output does, it holds more than one, and its shape does not tell in which order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

__all__ = ["JOINED", "READ", "Widths", "mixed"]

READ = ("input", "channel")
"""Names of axes that hold what other layers yield."""

JOINED = "joined output"
"""The name of an axis that holds the outputs of several layers one after the other, as q, k and v."""


@dataclass(frozen=True)
class Widths:
    """The outputs of all layers that a checkpoint and a model share.

    Args:
        changed: Old and new counts of those that differ.
        steady: Counts of those that do not.
    """

    changed: frozenset[tuple[int, int]] = frozenset()
    steady: frozenset[int] = frozenset()

    @classmethod
    def of(cls, outputs: Iterable[tuple[int, int]]) -> Widths:
        """The widths of outputs, as old and new counts.

        Example:
            >>> Widths.of([(17, 14), (8, 8)])
            Widths(changed=frozenset({(17, 14)}), steady=frozenset({8}))
        """
        pairs = set(outputs)
        return cls(frozenset(p for p in pairs if p[0] != p[1]), frozenset(old for old, new in pairs if old == new))

    def holds_several(self, name: str, old: int, new: int) -> bool:
        """Whether an axis is read and changes as no single output does."""
        return name in READ and bool(self.changed) and (old, new) not in self.changed


def mixed(kinds: Iterable[tuple[int, int]], old: int, new: int) -> Iterator[int]:
    """The rows that stay, of each way in which an axis holds outputs of two kinds that change.

    Args:
        kinds: Old and new counts.
        old: Rows before.
        new: Rows now.

    Example:
        >>> list(mixed([(9, 7), (5, 4)], 17, 14))
        [3]
    """
    for (a, b), (c, d) in combinations(sorted(kinds), 2):
        for each in range(1, old // a + 1 if a else 0):
            times, over = divmod(old - new - each * (a - b), c - d)
            rest = old - each * a - times * c
            if over == 0 and times > 0 and rest >= 0:
                yield rest
