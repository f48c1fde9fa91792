"""Placing: whether the cells that a chain makes lie where those of the target lie."""

from __future__ import annotations

from collections.abc import Mapping

from autoadapt.adapting.layouts.factors import LARGE, Atom, Factored, kernel_of

__all__ = ["misplaced", "off_by", "shift", "shift_of_resized"]


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


def shift_of_resized(source: Factored, target: Factored, sizes: Mapping[str, int]) -> tuple[float, float]:
    """How far a stretch puts cells from those of the target at most, where the new module reads a resized image.

    Its cells are taken to cover the whole image evenly, as patches do: no more can be said of all its sizes at once.

    Args:
        source: A tensor of the new module.
        target: What it serves.
        sizes: A size for every input axis.

    Returns:
        The distance and the step of the target, both in cells of the input.
    """
    known = {one.axis for one in source.spec.centres}
    resized = {atom.kind for atoms in source.atoms for atom in atoms if atom.kind <= known and atom.centres is None}
    found = [(0.0, 1.0)]
    for atom in (atom for atoms in target.atoms for atom in atoms if atom.kind in resized):
        if atom.centres is not None and len(atom.kind) == 1:
            size, count = sizes[next(iter(atom.kind))], int(atom.dim.evaluate(sizes))
            first, step = atom.centres
            ends = [abs((cell + 0.5) * size / count - 0.5 - first - step * cell) for cell in (0, count - 1)]
            found.append((max(ends), step))
    return max(found)
