"""Placing: whether the cells that a chain makes lie where those of the target lie."""

from __future__ import annotations

from collections.abc import Mapping

from autoadapt.adapting.layouts.factors import LARGE, Atom, Factored, kernel_of
from autoadapt.contracts.dims import Dim

__all__ = ["evened", "misplaced", "off_by", "shift", "shift_of_resized"]


def misplaced(source: Atom, target: Atom, kernel: int = 1) -> tuple[float, float] | None:
    """Where the target's cells lie among the source's, if averaging and stretching would miss them by over half a step.

    Args:
        source: An axis of the source.
        target: The axis of the target that it serves.
        kernel: How many cells of the source are averaged before they are stretched.

    Returns:
        The first cell and the step of the target, in cells of the source; None where a stretch does, or where nothing
        is known.

    Example:
        >>> from autoadapt.contracts.dims import Dim
        >>> padded = Atom(Dim.parse("ceil(H/8)"), frozenset("H"), None, (0, 8))
        >>> valid = Atom(Dim.parse("ceil((H - 86)/8)"), frozenset("H"), None, (43, 8))
        >>> misplaced(padded, valid), misplaced(padded, padded)
        ((5.375, 1.0), None)
    """
    if source.centres is None or target.centres is None or 2 * off_by(source, target, kernel) <= target.centres[1]:
        return None
    (have, width), (want, step) = source.centres, target.centres
    return (want - have) / width, step / width


def off_by(source: Atom, target: Atom, kernel: int = 1) -> float:
    """How far from the target's cells averaging and stretching puts them at most, in cells of the input.

    The outer edges of both are laid on each other, as interpolation does (`align_corners=False`); the first and the
    last cell are compared, at large sizes that most steps divide. 0 where nothing is known.
    """
    if source.centres is None or target.centres is None or len(target.dim.axes) != 1:
        return 0.0
    (axis,) = target.dim.axes
    (first, step), (wanted, wanted_step) = source.centres, target.centres
    first, step = first + step * (kernel - 1) / 2, step * kernel
    found = []
    for size in LARGE:
        have, want = (int(dim.evaluate({axis: size})) for dim in (source.dim.ceildiv(kernel), target.dim))
        for cell in (0, want - 1):
            stretched = first + step * ((cell + 0.5) * have / want - 0.5)
            found.append(abs(stretched - wanted - wanted_step * cell))
    return max(found)


def shift(source: Factored, target: Factored) -> tuple[float, float]:
    """How far averaging and stretching puts cells from those of the target at most, and the step of these.

    Both in cells of the input; for each axis of the target, against the axis of the source that follows the same.
    """
    served = {atom.kind: atom for atoms in source.atoms for atom in atoms if len(atom.kind) == 1}
    found = [(0.0, 1.0)]
    for atom in (atom for atoms in target.atoms for atom in atoms):
        if atom.kind in served and atom.centres is not None:
            have = served[atom.kind]
            found.append((off_by(have, atom, kernel_of(have, atom)), atom.centres[1]))
    return max(found)


def evened(source: Atom, target: Atom) -> tuple[Dim, tuple[float, float]] | None:
    """How cells that cover a resized image evenly are brought to where those of the target lie, in two steps.

    They are stretched onto cells that cover the image with the step of the target, as nearly as whole numbers do it;
    then these are read where the target has its cells. The last cells miss these by half a step at most.

    Returns:
        How many cells are made, and the first cell and the step of the target among them; None where one stretch
        misses by less than half a step and little more, and where nothing is known.
    """
    if not source.even or target.centres is None or len(target.dim.axes) != 1:
        return None
    (first, step), (axis,) = target.centres, target.dim.axes
    if step != int(step) or all(2 * _stretched(target, {axis: size}) <= step + 1 for size in LARGE):
        return None
    return (Dim.axis(axis) + int(step) // 2) // int(step), ((first - (step - 1) / 2) / step, 1.0)


def _stretched(target: Atom, sizes: Mapping[str, int]) -> float:
    """How far cells that cover the image evenly lie from those of a target of as many, at the ends."""
    assert target.centres is not None, "only known centres are compared"
    first, step = target.centres
    (axis,) = target.dim.axes
    size, count = sizes[axis], int(target.dim.evaluate(sizes))
    return max(abs((cell + 0.5) * size / count - 0.5 - first - step * cell) for cell in (0, count - 1))


def shift_of_resized(source: Factored, target: Factored, sizes: Mapping[str, int]) -> tuple[float, float]:
    """How far one stretch puts the cells of a resized image from those of the target, and the step of these.

    Args:
        source: A tensor of the new module.
        target: What it serves.
        sizes: A size for every input axis.
    """
    even = {atom.kind for atoms in source.atoms for atom in atoms if atom.even}
    ends = [atom for atoms in target.atoms for atom in atoms if atom.kind in even and len(atom.dim.axes) == 1]
    found = [(_stretched(atom, sizes), atom.centres[1]) for atom in ends if atom.centres is not None]
    return max(found, default=(0.0, 1.0))
