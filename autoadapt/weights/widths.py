"""Widths: what the layers of a model yield, before and after, which is what other layers read.

An axis that is read (the input of a layer, the channels of a norm) is the output of one layer, or several side by side.
Where it changes as no output does, it holds more than one, and its shape does not tell in which order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

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
        read: Old and new counts of axes that are read and differ.
        ends: Counts of `steady` that no layer reads.
        maps: Those of `changed` that a convolution yields.
    """

    changed: frozenset[tuple[int, int]] = frozenset()
    steady: frozenset[int] = frozenset()
    read: frozenset[tuple[int, int]] = frozenset()
    ends: frozenset[int] = frozenset()
    maps: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def of(
        cls,
        outputs: Iterable[tuple[int, int]],
        read: Iterable[tuple[int, int]] = (),
        maps: Iterable[tuple[int, int]] = (),
    ) -> Widths:
        """The widths of outputs, of what is read, and of the outputs of convolutions, as old and new counts.

        Example:
            >>> widths = Widths.of([(17, 14), (8, 8)], read=[(8, 8)])
            >>> widths.changed, widths.steady, widths.ends
            (frozenset({(17, 14)}), frozenset({8}), frozenset())
        """
        pairs, inputs = set(outputs), set(read)
        changed, steady = _changed(pairs), frozenset(old for old, new in pairs if old == new)
        return cls(changed, steady, _changed(inputs), steady - {old for old, _ in inputs}, _changed(maps))

    @property
    def heads(self) -> frozenset[tuple[int, int]]:
        """Those of `changed` that no layer reads."""
        return self.changed - self.read

    def holds_several(self, name: str, old: int, new: int) -> bool:
        """Whether an axis is read and changes as no single output does."""
        return name in READ and bool(self.changed) and (old, new) not in self.changed


def _changed(pairs: Iterable[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    return frozenset((old, new) for old, new in pairs if old != new)


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
