"""Placing: whether pooling and resizing put cells where those of the target lie, and where to resample them if not.

To stretch cells is to resize them by linear interpolation, with the outer edges of both grids in the same place
(`align_corners=False`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

from autoadapt.adapting.layouts.factors import LARGE, Atom, Factored, kernel_of
from autoadapt.contracts.dims import Dim

IN_PLACE = 0.25
"""The fraction of a step by which cells may be off before they are resampled, or a remark says so."""


_MOST_SIZES = 1024
"""How many sizes in a row are looked at, where the steps of two axes have a longer period."""


def misplaced(source: Atom, target: Atom, kernel: int = 1) -> tuple[float, float] | None:
    """The target's centres among the source's cells, if pooling and stretching would miss them.

    They miss them by more than half a step; along a sequence by more than a quarter, since there no picture shows an
    offset. Cells of the target's step that are nearly in place, and only more or fewer at some sizes, are selected: the
    last is left out or repeated.

    Args:
        source: An axis of the source.
        target: The axis of the target that it becomes.
        kernel: How many cells of the source are pooled before they are stretched.

    Returns:
        The first centre and the step of the target, in cells of the source; None where stretching is right, or centres
        are unknown.

    Example:
        >>> from autoadapt.contracts.dims import Dim
        >>> padded = Atom(Dim.parse("ceil(H/8)"), frozenset("H"), None, (0, 8))
        >>> valid = Atom(Dim.parse("ceil((H - 86)/8)"), frozenset("H"), None, (43, 8))
        >>> misplaced(padded, valid), misplaced(padded, padded)
        ((5.375, 1.0), None)
        >>> floored = Atom(Dim.parse("floor(H/8)"), frozenset("H"), None, (1, 8))
        >>> misplaced(padded, floored)
        (0.0, 1.0)
    """
    if source.centres is None or target.centres is None or len(target.dim.axes) != 1:
        return None
    (have, width), (want, step) = source.centres, target.centres
    place = (want - have) / width, step / width
    if step == width * kernel and any(made != wanted for made, wanted in _counts(source, target, kernel)):
        return (0.0, 1.0) if kernel == 1 and abs(place[0]) < IN_PLACE else place
    most = step / 2 if target.dim.axes <= {"H", "W"} else step * IN_PLACE
    return place if off_by(source, target, kernel) > most else None


@functools.lru_cache(maxsize=4096)
def _counts(source: Atom, target: Atom, kernel: int) -> tuple[tuple[int, int], ...]:
    """Numbers of cells of both axes, the source's after pooling, at large sizes with all pairs of remainders."""
    assert source.centres is not None, "only known centres are compared"
    assert target.centres is not None, "only known centres are compared"
    (axis,) = target.dim.axes
    averaged, steps = source.dim.ceildiv(kernel), (source.centres[1] * kernel, target.centres[1])
    period = math.lcm(*map(math.ceil, steps))
    sizes = sorted({*LARGE, *range(LARGE[0], LARGE[0] + min(period, _MOST_SIZES))})
    made, wanted = ([int(dim.evaluate({axis: size})) for size in sizes] for dim in (averaged, target.dim))
    return tuple(zip(made, wanted, strict=True))


def off_by(source: Atom, target: Atom, kernel: int = 1) -> float:
    """The largest distance from the target's cells after pooling and stretching, in cells of the input.

    The first and the last cell are compared, at large sizes with all remainders. 0 where centres are unknown.
    """
    if source.centres is None or target.centres is None or len(target.dim.axes) != 1:
        return 0.0
    (first, step), (wanted, wanted_step) = source.centres, target.centres
    first, step = first + step * (kernel - 1) / 2, step * kernel
    found = []
    for have, want in dict.fromkeys(_counts(source, target, kernel)):
        for cell in (0, want - 1):
            stretched = first + step * ((cell + 0.5) * have / want - 0.5)
            found.append(abs(stretched - wanted - wanted_step * cell))
    return max(found)


def shift(source: Factored, target: Factored) -> tuple[float, float]:
    """The largest distance of cells from those of the target after pooling and stretching, and the target's step.

    Both are in cells of the input, for the axis where the distance is largest.
    """
    served = {atom.kind: atom for atoms in source.atoms for atom in atoms if len(atom.kind) == 1}
    found = [(0.0, 1.0)]
    for atom in (atom for atoms in target.atoms for atom in atoms):
        if atom.kind in served and atom.centres is not None:
            have = served[atom.kind]
            found.append((_evenly(atom) if have.even else off_by(have, atom, kernel_of(have, atom)), atom.centres[1]))
    return max(found)


def _evenly(target: Atom) -> float:
    """The largest distance from the target's cells of as many that divide the image evenly, at large sizes."""
    (axis,) = target.kind
    return max(_stretched(target, {axis: size}) for size in LARGE) if target.dim.axes == {axis} else 0.0


def evened(source: Atom, target: Atom) -> tuple[Dim, tuple[float, float]] | None:
    """How cells that divide a resized image evenly are brought to the target's centres in two steps.

    They are stretched to as many cells as fit into the image at the step of the target, rounded; these are then
    resampled at the target's centres. The last cells are off by half a step at most.

    Returns:
        The number of cells in between, and the first centre and the step of the target among them; None where one
        stretch is off by a step at most, as rounding of sizes is, and where centres are unknown.
    """
    if not source.even or target.centres is None or len(target.dim.axes) != 1:
        return None
    (first, step), (axis,) = target.centres, target.dim.axes
    if step != int(step) or all(_stretched(target, {axis: size}) <= step + 1 for size in LARGE):
        return None
    return (Dim.axis(axis) + int(step) // 2) // int(step), ((first - (step - 1) / 2) / step, 1.0)


def _stretched(target: Atom, sizes: Mapping[str, int]) -> float:
    """The largest distance from the target's cells of as many that divide the image evenly, at the ends."""
    assert target.centres is not None, "only known centres are compared"
    first, step = target.centres
    (axis,) = target.dim.axes
    size, count = sizes[axis], int(target.dim.evaluate(sizes))
    return max(abs((cell + 0.5) * size / count - 0.5 - first - step * cell) for cell in (0, count - 1))
