"""Cells along the axes of an input, and the axes of a tensor that list them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TypeAlias

RATIOS: tuple[Fraction | int, ...] = (1, *(Fraction(1, n) for n in (2, 4, 8, 3, 16, 7, 14)), *map(Fraction, (2, 4, 8)))


@dataclass(frozen=True)
class Cells:
    """The cells along one axis of the input."""

    first: Fraction
    """Centre of the first cell, in input cells counted from 0."""
    step: Fraction
    """From one centre to the next, in input cells."""
    count: int
    coarsest: Fraction = field(default=Fraction(1), compare=False)
    """The largest step of any map that they were computed from; where a decoder joins maps, the finest decides."""
    reversed: bool = False
    """Whether the last one is listed first; `first` and `step` do not tell that."""
    shift: Fraction = Fraction(0)
    """How far they are rolled in the direction in which they are listed, in input cells."""
    mixed: bool = False
    """Whether they stand in another order, or in one order in some channels and in another one in others."""

    @property
    def in_order(self) -> bool:
        """Whether they are listed one by one, from either end."""
        return not self.mixed and not self.shift

    def flipped(self) -> Cells:
        """The same from the other end."""
        return replace(self, reversed=not self.reversed, shift=-self.shift % (self.step * self.count))

    def rolled(self, cells: int) -> Cells:
        """The same where those that leave at the end come back in front."""
        return replace(self, shift=(self.shift + self.step * cells) % (self.step * self.count))

    def reordered(self) -> Cells:
        """The same in an order that is not followed."""
        return replace(self, mixed=True)

    def beside(self, others: Sequence[Cells], *, all_count: bool) -> Cells:
        """These cells where others of their number and distance are joined with them.

        Args:
            others: The other ones.
            all_count: All keep their channels; else those that stand in order decide, as in a residual stream.
        """
        joined = [self, *others]
        joined = joined if all_count else [one for one in joined if one.in_order] or joined
        orders = {(one.reversed, one.shift) for one in joined}
        return replace(joined[0], mixed=len(orders) > 1 or any(one.mixed for one in joined))

    def read(self, *, start: Fraction | int, step: Fraction | int, count: int) -> Cells:
        """The cells of a result: the first lies `start` cells behind the first one here, each next one `step` cells."""
        if step == 1 and not start and count == self.count:
            return self  # the commonest case, and fractions are slow
        start = self.count - 1 - start - (count - 1) * step if self.reversed else start
        first = self.first + self.step * start if start else self.first
        made = self.step * step
        return replace(self, first=first, step=made, count=count, coarsest=max(made, self.coarsest))

    def grouped(self, count: int) -> Cells:
        """The same extent divided into another number of equal cells."""
        if count == self.count:
            return self
        ratio = Fraction(self.count, count)
        return self.read(start=(ratio - 1) / 2, step=ratio, count=count)

    def is_regrouped(self, count: int) -> bool:
        """Whether so many cells may be groups or parts of these, as where reshaping cuts patches."""
        return Fraction(count, self.count) in RATIOS


Grid: TypeAlias = Mapping[str, Cells]
"""The cells of a tensor, by input axis."""


def listing_axes(grid: Grid, shape: Sequence[int], among: Iterable[int]) -> tuple[dict[int, str], dict[str, Cells]]:
    """Which axes of a tensor list the cells of which input axes, and these cells.

    An axis is recognised by its number of cells. Where several fit, as where a map has as many channels as columns,
    those are taken that stand next to each other, the last of them. Where none fits, but all would if cells were
    grouped or divided by one ratio, reshaping has regrouped them, as it cuts patches.

    Args:
        grid: The cells of the tensor, by input axis.
        shape: Its shape.
        among: The axes of the tensor that are looked at.
    """
    among, cells = list(among), dict(grid)
    for ratio in RATIOS:
        if axes := _found(among, shape, {name: one.count * ratio for name, one in grid.items()}):
            return axes, {name: grid[name].grouped(shape[axis]) for axis, name in axes.items()}
    for count in range(len(grid) - 1, 0, -1):
        for names in itertools.combinations(grid, count):
            if axes := _found(among, shape, {name: grid[name].count for name in names}):
                return axes, cells
    return {}, cells


def whole_axes(grid: Grid, shape: Sequence[int]) -> dict[int, str]:
    """Which axes of a tensor list all cells of which input axes, also where columns stand before rows.

    Args:
        grid: The cells of the tensor, by input axis.
        shape: Its shape.
    """
    axes, _ = listing_axes(grid, shape, range(len(shape)))
    found = {axis: name for axis, name in axes.items() if grid[name].count == shape[axis]}
    for name in grid.keys() - found.values():
        fitting = [axis for axis, size in enumerate(shape) if size == grid[name].count and axis not in found]
        found |= {fitting[0]: name} if len(fitting) == 1 else {}
    return found


def _found(among: Sequence[int], shape: Sequence[int], wanted: Mapping[str, Fraction | int]) -> dict[int, str]:
    """The closest and last axes of these sizes, in this order; empty where there are none."""
    for axes in _closest_first(tuple(among), len(wanted)):
        if [shape[axis] for axis in axes] == list(wanted.values()):
            return dict(zip(axes, wanted, strict=True))
    return {}


@functools.cache
def _closest_first(among: tuple[int, ...], count: int) -> tuple[tuple[int, ...], ...]:
    """The choices of so many of the axes: those with the fewest others between them first, of these the last first."""
    last_first = reversed(list(itertools.combinations(among, count)))
    return tuple(sorted(last_first, key=lambda axes: axes[-1] - axes[0] if axes else 0))
