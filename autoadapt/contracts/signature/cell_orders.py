"""Cell orders: in which order a token axis lists the cells of an image, a clip or a volume."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias, cast

Cells: TypeAlias = Literal["rows", "columns", "unknown", "HTW", "HWT", "TWH", "WTH"]
"""`rows`: the width runs fastest, then the height, then time or depth (row-major); `columns`: the reverse. The four
other orders of three axes are named from the slowest to the fastest: in `HWT` all frames of one place stand together.
"""

_SLOWEST_FIRST = "THW"


def _rank(axis: str) -> tuple[int, str]:
    """The place of an axis in row-major order; axes that are none of an image come first, by name."""
    return _SLOWEST_FIRST.find(axis[0]), axis


def in_order(axes: Iterable[str], cells: str) -> list[str]:
    """Axes from the slowest to the fastest.

    Example:
        >>> in_order("HTW", "rows"), in_order("HW", "columns"), in_order("HTW", "HWT")
        (['T', 'H', 'W'], ['W', 'H'], ['H', 'W', 'T'])
    """
    if cells in ("rows", "columns"):
        return sorted(axes, key=_rank, reverse=cells == "columns")
    return sorted(axes, key=lambda axis: (cells.find(axis[0]), axis))


def cells_in(axes: Sequence[str]) -> Cells:
    """The name of an order of cells, from its axes, the slowest first.

    Example:
        >>> cells_in("THW"), cells_in("WH"), cells_in("HWT")
        ('rows', 'columns', 'HWT')
    """
    plain: list[Cells] = ["rows", "columns"]
    told = "".join(axis[0] for axis in axes)
    return next((one for one in plain if [*axes] == in_order(axes, one)), cast(Cells, told))
