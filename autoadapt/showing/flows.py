"""Flows: blocks in rows, as words stand in lines, each with a line to the next."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from autoadapt.showing.blocks import Block
from autoadapt.showing.shapes import Group, Path

GAP = 12.0
"""Between blocks below each other."""
ARROW = 18.0
"""Between blocks beside each other."""


def flow(blocks: Sequence[Block], room: float) -> Flow:
    """Blocks in as few rows of a width as their order allows; a block that is wider has a row of its own."""
    rows: list[list[Block]] = [[]]
    for block in blocks:
        taken = sum(other.width + ARROW for other in rows[-1])
        if rows[-1] and taken + block.width > room:
            rows.append([])
        rows[-1].append(block)
    return Flow(rows)


@dataclass
class Flow:
    """Rows of blocks; all places are in pixels from the upper left corner."""

    rows: list[list[Block]]

    @cached_property
    def width(self) -> float:
        """Of the widest row."""
        return max(map(_width, self.rows))

    @cached_property
    def _heights(self) -> list[float]:
        return [max(block.height for block in row) for row in self.rows]

    @property
    def height(self) -> float:
        """Of all rows."""
        return sum(self._heights) + GAP * (len(self.rows) - 1)

    @cached_property
    def centres(self) -> list[float]:
        """The middle of each row."""
        made = [self._heights[0] / 2]
        for above, below in itertools.pairwise(self._heights):
            made.append(made[-1] + above / 2 + GAP + below / 2)
        return made

    @property
    def end(self) -> float:
        """The right end of the last row."""
        return _width(self.rows[-1])

    def lines(self, left: float, top: float) -> Iterator[Path]:
        """From each block to the next."""
        for number, (row, centre) in enumerate(zip(self.rows, self.centres, strict=True)):
            right = left
            for block in row[:-1]:
                right += block.width
                yield from curve(right, top + centre, right + ARROW, top + centre)
                right += ARROW
            if number + 1 < len(self.rows):
                between = top + centre + self._heights[number] / 2 + GAP / 2
                yield from _turn(left + _width(row), top + centre, between, left, top + self.centres[number + 1])

    def draw(self, left: float, top: float) -> Iterator[Group]:
        """The blocks."""
        for row, centre in zip(self.rows, self.centres, strict=True):
            x = left
            for block in row:
                yield block.draw(x, top + centre - block.height / 2)
                x += block.width + ARROW


def _width(row: Sequence[Block]) -> float:
    return sum(block.width for block in row) + ARROW * (len(row) - 1)


def curve(left: float, top: float, right: float, bottom: float) -> tuple[Path, Path]:
    """A line to the right, with a tip; curved where the ends are not level."""
    end = right - 5
    if abs(top - bottom) < 0.5:
        path = f"M{left:.1f} {top:.1f}H{end:.1f}"
    else:
        bend = left + (right - left) / 2
        path = f"M{left:.1f} {top:.1f}C{bend:.1f} {top:.1f} {bend:.1f} {bottom:.1f} {end:.1f} {bottom:.1f}"
    return Path(path), _tip(right, bottom)


def _turn(right: float, top: float, between: float, left: float, bottom: float) -> tuple[Path, Path]:
    """A line from the end of one row to the start of the next."""
    path = f"M{right:.1f} {top:.1f}h8V{between:.1f}H{left - 14:.1f}V{bottom:.1f}H{left - 5:.1f}"
    return Path(path, "aa-turn"), _tip(left, bottom)


def _tip(x: float, y: float) -> Path:
    return Path(f"M{x:.1f} {y:.1f}l-7 -3.6v7.2z", "aa-tip")
