"""Merging: the axes that reshaping merged into one, such as the channels, rows and columns of a flattened map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch

from autoadapt.contracts.capturing.cell_axes import Grid, whole_axes
from autoadapt.contracts.capturing.followers import Follower, Made
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Merged, Part

Listed: TypeAlias = tuple[tuple[tuple[int, str], ...], ...]
"""For each axis of a tensor the sizes that were merged into it, the slowest first, each with the input axis whose cells
it lists; empty text for channels."""


def merging_followed(
    grid: Callable[[torch.Tensor], Grid], spatial: Iterable[str], mixing: Iterable[str]
) -> Follower[Listed]:
    """Follows what axes list from maps through operations that turn or reshape them, or work on each value by itself.

    Sizes alone do not show that a square map was turned.

    Args:
        grid: Returns the cells of a tensor.
        spatial: Operations on the last axes, such as convolutions.
        mixing: Others that may mix or move values even if the shape stays the same.
    """

    def mapped(made: Made[Listed]) -> Listed | None:
        before, shape = made.told[0], made.tensor.shape
        if before is None or len(before) != len(shape) or any(len(axis) > 1 for axis in before):
            return _axes_of(made.tensor, grid)
        names = [axis[0][1] if axis else "" for axis in before]
        return tuple(((size, along),) for size, along in zip(shape, names, strict=True))

    def reshaped(made: Made[Listed]) -> Listed | None:
        read = made.named.get("self")
        return _regrouped(made.of(read) or _axes_of(read, grid), made.tensor.shape) if read is not None else _kept(made)

    def turned(made: Made[Listed]) -> Listed | None:
        read: torch.Tensor = made.named["self"]
        known, order = made.of(read) or _axes_of(read, grid), [*range(read.dim())]
        if "dims" in made.named:
            order = [order[axis] for axis in made.named["dims"]]
        elif read.dim() > 1:
            first, second = made.named.get("dim0", 0), made.named.get("dim1", 1)
            order[first], order[second] = order[second], order[first]
        return tuple(known[axis] for axis in order)

    rules = {
        **dict.fromkeys(mixing, _nothing),
        **dict.fromkeys(spatial, mapped),
        **dict.fromkeys(_RESHAPING, reshaped),
        **dict.fromkeys(TURNING, turned),
    }
    return Follower(rules, _kept)


_RESHAPING = ("view", "reshape", "_reshape_alias", "_unsafe_view", "flatten", "squeeze", "unsqueeze")
TURNING = ("permute", "transpose", "t")
"""Operations that only change the order of axes."""


def _nothing(made: Made[Listed]) -> None:
    return None


def _kept(made: Made[Listed]) -> Listed | None:
    known = made.told[0] if made.told else None
    return known if known is not None and made.tensor.shape == made.given[0].shape else None


def _axes_of(tensor: torch.Tensor, grid: Callable[[torch.Tensor], Grid]) -> Listed:
    """What each axis of a tensor lists; only axes with as many entries as there are cells count as cells."""
    found = whole_axes(grid(tensor), tensor.shape)
    return tuple(((size, found.get(axis, "")),) for axis, size in enumerate(tensor.shape))


def _regrouped(listed: Listed, shape: Sequence[int]) -> Listed | None:
    """The same where adjacent axes are merged to a shape; None where one of cells is divided.

    Others may be, as samples that all frames were merged into, or channels of several boxes.
    """
    parts = [part for axis in listed for part in axis if part[0] != 1]
    groups = []
    for size in shape:
        group: list[tuple[int, str]] = []
        while parts and math.prod(count for count, _ in group) < size:
            group.append(parts.pop(0))
        rest, left = divmod(math.prod(count for count, _ in group), size)
        if left:
            return None
        if rest > 1:
            count, along = group.pop()
            if along or count % rest:
                return None
            group.append((count // rest, ""))
            parts.insert(0, (rest, ""))
        groups.append(_joined(group))
    return tuple(groups)


def _joined(group: Sequence[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    """The parts of an axis, with channels that stand side by side as one."""
    found: list[tuple[int, str]] = []
    for count, along in group:
        if found and not along and not found[-1][1]:
            found[-1] = (found[-1][0] * count, "")
        else:
            found.append((count, along))
    return tuple(found)


def merged_axes(
    outputs: Sequence[Sequence[Dim]], runs: Sequence[tuple[Mapping[str, int], Sequence[Listed | None]]]
) -> list[Merged | None]:
    """For each output the axis that lists its channels and cells together; None where most runs show none, or differ.

    A run at which there are as many channels as rows may take one for the other.

    Args:
        outputs: The dims of each output.
        runs: Sizes of the input axes, and what the axes of each output listed at them.
    """
    found = []
    for number, dims in enumerate(outputs):
        told = [_merged_at(dims, sizes, listed[number]) for sizes, listed in runs]
        best = max(told, key=told.count, default=None)
        found.append(best if 2 * told.count(best) > len(runs) else None)
    return found


def _merged_at(dims: Sequence[Dim], sizes: Mapping[str, int], listed: Listed | None) -> Merged | None:
    if listed is None:
        return None
    axes = [axis for axis, dim in enumerate(dims) if dim.constant is not None or len(listed[axis]) > 1]
    channels = [axis for axis in axes for _, along in listed[axis] if not along]
    if len(channels) != 1 or len(listed[channels[0]]) < 2:
        return None  # channels beside it, as where pixels are shuffled, or all channels in an axis of their own
    axis = channels[0]
    parts = [_part(dims[axis], size, along, sizes) for size, along in listed[axis]]
    found = [part for part in parts if part is not None]
    product = math.prod((part.dim for part in found), start=Dim(1))
    if len(found) < len(parts) or product.evaluate(sizes) != dims[axis].evaluate(sizes):
        return None
    return Merged(axis=axis, parts=tuple(found))


def _part(dim: Dim, size: int, along: str, sizes: Mapping[str, int]) -> Part | None:
    """A part of a merged axis, as a function of the input axis whose cells it lists; None where it is not."""
    own = [factor for factor in dim.factors or () if factor.axes == {along}]
    if not own:
        return Part(Dim(size), along)
    function = math.prod(own, start=Dim(1))
    value = int(function.evaluate(sizes))
    if size % value == 0:
        return Part(size // value * function, along)
    return Part(function // (value // size), along) if value % size == 0 else None
