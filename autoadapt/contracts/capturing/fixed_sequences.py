"""Fixed sequences: the outputs of a module that takes frames of one length only, as functions of that length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from autoadapt.contracts.capturing.centres import Cells
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.probing import InnerKey, Observation
from autoadapt.contracts.capturing.solving import Solution
from autoadapt.contracts.dims import Dim

__all__ = ["FRAMES", "in_frames", "unread_frames", "with_frames"]

FRAMES = "N"
"""The axis that lists frames."""


def with_frames(axes: InputAxes, module: nn.Module) -> list[InputAxes]:
    """The axes of a module of one length, with frames told from channels by its first layer.

    Two readings where there are as many frames as channels, or where the layer takes another number, or reads maps.

    Args:
        axes: Of its inputs, of which only the batch varies.
        module: The module.
    """
    sequences = [i for i, names in enumerate(axes.names) if len(names) == 3 and names[0] == "B"]
    first = next((one for one in module.modules() if isinstance(one, (nn.Conv1d, nn.Conv2d, nn.Linear))), None)
    if len(sequences) != 1:
        return []
    names = axes.names[sequences[0]]
    taken = first.in_channels if isinstance(first, nn.Conv1d) else getattr(first, "in_features", 0)
    kept = {name: size for name, size in axes.example.items() if name not in names}
    if kept.keys() & {"B", "C", FRAMES}:
        return []

    def reading(row: tuple[str, ...]) -> InputAxes:
        sizes = {new: axes.example[old] for new, old in zip(row, names, strict=True)}
        return InputAxes(tuple(row if i == sequences[0] else one for i, one in enumerate(axes.names)), sizes | kept)

    rows = {1: ("B", "C", FRAMES), 2: ("B", FRAMES, "C")}
    fitting = [axis for axis in rows if axes.example[names[axis]] == taken]
    return [reading(rows[axis]) for axis in fitting or rows]


def unread_frames(solution: Solution, seen: Observation, size: int) -> list[InnerKey | int]:
    """The tensors of samples, frames and channels whose frames are not told by their number alone.

    Args:
        solution: What was found so far.
        seen: A run in which frames were followed.
        size: How many the module takes.
    """
    dims = dict[InnerKey | int, tuple[Dim, ...]]([*enumerate(solution.outputs), *solution.inner.items()])
    fixed = [key for key, one in dims.items() if len(one) == 3 and all(dim.constant is not None for dim in one[1:])]
    return [key for key in fixed if _read(dims[key], _cells(seen, key), size) == tuple(dims[key])]


def in_frames(solution: Solution, seen: Observation, size: int, told: Mapping[InnerKey | int, int]) -> Solution:
    """Constants that count frames, as functions of how many the module takes.

    Args:
        solution: What was found so far.
        seen: A run in which frames were followed.
        size: How many it takes.
        told: Which axis lists frames, of tensors that were seen to answer to these.
    """
    outputs = [_read(dims, _cells(seen, i), size, told.get(i)) for i, dims in enumerate(solution.outputs)]
    inner = {key: _read(dims, _cells(seen, key), size, told.get(key)) for key, dims in solution.inner.items()}
    return replace(solution, outputs=tuple(outputs), inner=inner)


def _cells(seen: Observation, key: InnerKey | int) -> Cells | None:
    grid = seen.grids[key] if isinstance(key, int) else seen.inner[key].grid if key in seen.inner else {}
    return grid.get(FRAMES)


def _read(dims: Sequence[Dim], cells: Cells | None, size: int, told: int | None = None) -> tuple[Dim, ...]:
    """The dims of a tensor whose frames stand on the one axis that is as long as there are frames, or that is told."""
    found = [axis for axis, dim in enumerate(dims) if cells is not None and dim.constant == cells.count]
    axis = told if told is not None else found[0] if len(found) == 1 else None
    count = int(dims[axis].constant or 0) if axis is not None else 0
    known = cells if cells is not None and cells.count == count else None
    if not 0 < count <= size or (known is not None and known.step.denominator != 1):
        return tuple(dims)
    step, frames = int(known.step) if known is not None else size // count, Dim.axis(FRAMES)
    lost = max(size // step - count, 0) if known is not None else 0
    options = [frames // step, frames.ceildiv(step), (frames - lost * step) // step]
    right = [one for one in options if one.evaluate({FRAMES: size}) == count]
    return tuple(right[0] if i == axis and right else dim for i, dim in enumerate(dims))
