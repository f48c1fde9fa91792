"""Remarks on cells: what resampling loses, and how far the new cells lie from the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoadapt.adapting.layouts import IN_PLACE, Factored, factored, shift
from autoadapt.adapting.operations import Lead, Operation, Remask, Resample, Resize, ResizeTokens, Take, shown_sizes
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Centres, TensorSpec


def what_is_lost(source: Factored, target: TensorSpec, steps: Sequence[Operation], dilated_by: str) -> str:
    """The remark on a chain: what resampling loses, where the cells lie, and which tokens are made up; may be empty.

    Args:
        source: The source of the chain.
        target: The target of the chain.
        steps: The chain.
        dilated_by: The argument of the new module's class that dilates it.
    """
    if any(isinstance(one, Remask) for one in steps):
        return ""
    made = "its class token is made, as the mean of the cells" if any(isinstance(one, Lead) for one in steps) else ""
    last = any(isinstance(one, Take) and one.last and one.where is None for one in steps)
    made = "its last token is read, padding or not, since no mask tells which count" if last else made
    told = [_coarser(source, target, steps, dilated_by), _elsewhere(source, target, steps), _fixed(target, steps), made]
    return "; ".join(filter(None, told))


def _fixed(target: TensorSpec, steps: Sequence[Operation]) -> str:
    """That a map is resized to a fixed size."""
    sizes = [step.dims for step in steps if isinstance(step, Resize)]
    told = sizes and target.map_axis is not None
    return f"resized to its fixed {shown_sizes(sizes[-1])} cells a side" if told else ""


def _elsewhere(source: Factored, target: TensorSpec, steps: Sequence[Operation]) -> str:
    """A remark that cells do not lie where those of the contract do; empty where they do."""
    if any(isinstance(step, Resample) or (isinstance(step, ResizeTokens) and step.first) for step in steps):
        if any(atom.even for atoms in source.atoms for atom in atoms):
            return "the image is resized before: its cells lie where the old ones do to half a step"
        made = {one.axis: one for one in source.spec.centres}
        moved = [one for one in target.centres if not _in_place(made.get(one.axis, one), one)]
        return f"its cells are read at pixels {moved[0]}, made at pixels {made[moved[0].axis]}" if moved else ""
    if _unknown(source, target):
        return (
            "its cells are not known to lie where the old ones do at every size, as with padding that follows the size,"
            " or where they are listed in another order"
        )
    if any(isinstance(step, Resize) for step in steps):
        if target.leading > source.spec.leading:
            return (
                f"all its tokens are stretched over all old ones, of which {target.leading} are leading ones, no cells"
            )
        if _unknown_of_tokens(source, target):
            return "all its tokens are stretched over all old ones: which of them are leading ones, if any, is not told"
    pixels, step = shift(source, factored(target))
    return f"its cells lie up to {round(pixels, 1):g} pixels from the old ones" if pixels >= IN_PLACE * step else ""


def _in_place(made: Centres, wanted: Centres) -> bool:
    return made.step == wanted.step and abs(made.first - wanted.first) < IN_PLACE * wanted.step


def _unknown(source: Factored, target: TensorSpec) -> bool:
    """Whether only one of both has centres along an image axis on which both depend.

    Contracts in texts and files of earlier versions have neither centres nor depths, and get no remark.
    """
    if source.spec.depth is None or target.depth is None:
        return False
    told = {one.axis for one in source.spec.centres} ^ {one.axis for one in target.centres}
    return bool(told & set(source.strides) & set(factored(target).strides) & {"H", "W"})


def _unknown_of_tokens(source: Factored, target: TensorSpec) -> bool:
    """Whether one of both has no centres along the axis of a sequence whose length has tokens added to its cells."""
    if source.spec.depth is None or target.depth is None:
        return False
    both = {one.axis for one in source.spec.centres} & {one.axis for one in target.centres}
    dims = (dim for spec in (source.spec, target) for dim in spec.dims if dim.axes - {"B", "H", "W"} - both)
    return any(dim.added > 0 for dim in dims)


def _coarser(source: Factored, target: TensorSpec, steps: Sequence[Operation], dilated_by: str) -> str:
    """A remark on lost detail, where a source has other strides or numbers of cells; else empty."""
    have, want = source.strides, factored(target).strides
    finer = [axis for axis in want if axis in have and want[axis] < have[axis]]
    if finer:
        lost = f"finer than its source (stride {have[finer[0]]}): detail is interpolated, not seen"
        return "; ".join(filter(None, [lost, _dilating(int(want[finer[0]]), target, dilated_by)]))
    if set(have) - set(want) and not any(isinstance(step, Take) for step in steps):
        alone = ": a mean of its tokens, while the old vector was made of the first token alone" * target.first_token
        return f"averaged over {', '.join(sorted(set(have) - set(want)))}{alone}"
    if have != want:
        return ""
    wanted = [atom.dim for atoms in factored(target).atoms for atom in atoms]
    off = {
        dim: max((_off(atom.dim, wanted) for atom in atoms if atom.dim.axes - {"B"}), default=0)
        for dim, atoms in zip(source.spec.dims, source.atoms, strict=True)
        if dim.factors
    }
    rounded = [str(dim) for dim, cells in off.items() if cells]
    how = "".join(_rounded(step, max(off.values(), default=0)) for step in steps)
    return f"its source has {' x '.join(rounded)} cells, rounded otherwise: {how}" if rounded and how else ""


def _off(dim: Dim, dims: Sequence[Dim]) -> int:
    """The largest difference in cells between a dim and the nearest of others, at large sizes."""
    alike = [one for one in dims if one.axes == dim.axes]
    return min((int(np.max(np.abs(_at_large(dim) - _at_large(one)))) for one in alike), default=1)


LARGE = np.arange(4096, 4160)
"""Large sizes with all remainders of the usual strides."""


def _at_large(dim: Dim) -> Any:
    return dim.evaluate(dict.fromkeys(dim.axes, LARGE))


def _rounded(step: Operation, cells: int) -> str:
    """How a step changes the number of cells that lie in the right places; empty for other steps."""
    match step:
        case Resize():
            return "resized by a cell" if cells == 1 else f"resized by up to {cells} cells"
        case Resample() if step.picks and not any(step.first):
            return "the last one is left out or repeated"
        case _:
            return ""


def _dilating(stride: int, target: TensorSpec, argument: str) -> str:
    """The constructor argument for a finer stride, where the contract's level is deep at that stride; else empty."""
    is_dilated = target.depth is not None and 2**target.depth >= 2 * stride
    if not is_dilated or stride not in (8, 16) or not argument:
        return ""
    value = stride if argument == "output_stride" else [False, stride == 8, True]
    return f"built with {argument}={value} it would see more"
