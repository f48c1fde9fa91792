"""Merged axes: an axis that lists the channels of a map and its cells together, as flattening leaves it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from autoadapt.contracts.dims import Dim, leading_and_product
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.signature.cell_orders import Cells, cells_in

MERGED_TEXT = r"axis (?P<merged_axis>\d+) lists (?P<merged>.+?)"
"""What `Merged.parse` reads, as part of a regular expression."""


class Part(NamedTuple):
    """One of the axes that were merged."""

    dim: Dim
    along: str
    """The input axis whose cells it lists; empty for channels."""

    def __str__(self) -> str:
        return f"{self.dim} along {self.along}" if self.along else str(self.dim)


class Merged(MadeByHand):
    """An axis that lists channels and cells together.

    Example:
        >>> print(Merged.parse("1", "512 x 7 along H x 7 along W"))  # a map of 7 x 7 cells, flattened
        axis 1 lists 512 x 7 along H x 7 along W
    """

    axis: int = Field(ge=0)
    parts: tuple[Part, ...]
    """What it lists, the slowest first."""

    @classmethod
    def parse(cls, axis: str, parts: str) -> Merged:
        """Read the two groups of `MERGED_TEXT`.

        Raises:
            SignatureError: A part is no dim.
        """
        pairs = [re.split(r" along ", part, maxsplit=1) for part in parts.split(" x ")]
        return cls(axis=int(axis), parts=tuple(Part(Dim.parse(dim), "".join(along)) for dim, *along in pairs))

    @property
    def cells(self) -> Cells:
        """The order of its cells, where their number varies."""
        axes = [part.along for part in self.parts if part.dim.axes]
        return cells_in(axes) if len(axes) > 1 else "rows"

    def __str__(self) -> str:
        return f"axis {self.axis} lists {' x '.join(map(str, self.parts))}"


def listed_along(
    dims: Sequence[Dim], axis: int, merged: Merged | None, leading: int = 0
) -> tuple[int, tuple[Dim, ...]]:
    """How many entries of an axis stand before the cells that it lists, and what these are the product of.

    Args:
        dims: The dims of a tensor.
        axis: One of its axes.
        merged: Its merged axis, if it has one.
        leading: How many tokens of a sequence are known to stand before its cells.
    """
    if merged is not None and merged.axis == axis:
        return 0, tuple(part.dim for part in merged.parts)
    if leading and is_sequence(dims[axis]):
        return leading, (dims[axis] - leading,)
    return leading_and_product(dims[axis])


def is_sequence(dim: Dim) -> bool:
    """Whether a dim is the length of a sequence: a function of one axis `N` of tokens, frames or samples.

    Example:
        >>> is_sequence(Dim.parse("floor(N/16) + 2")), is_sequence(Dim.parse("floor(H/16)*floor(W/16) + 1"))
        (True, False)
    """
    return len(dim.axes) == 1 and min(dim.axes)[0] == "N"
