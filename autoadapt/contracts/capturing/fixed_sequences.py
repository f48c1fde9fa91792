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

__all__ = ["FRAMES", "in_frames", "with_frames"]

FRAMES = "N"
"""The axis that lists frames."""


def with_frames(axes: InputAxes, module: nn.Module) -> InputAxes | None:
    """The axes of a module of one length, with frames told from channels by its first layer; None where it does not.

    Args:
        axes: Of its inputs, of which only the batch varies.
        module: The module.
    """
    sequences = [i for i, names in enumerate(axes.names) if len(names) == 3 and names[0] == "B"]
    first = next((one for one in module.modules() if isinstance(one, (nn.Conv1d, nn.Linear))), None)
    if len(sequences) != 1 or first is None:
        return None
    names = axes.names[sequences[0]]
    taken = first.in_channels if isinstance(first, nn.Conv1d) else first.in_features
    channels = [axis for axis in (1, 2) if axes.example[names[axis]] == taken]
    row = ("B", "C", FRAMES) if channels == [1] else ("B", FRAMES, "C")
    kept = {name: size for name, size in axes.example.items() if name not in names}
    if len(channels) != 1 or kept.keys() & {*row}:
        return None
    sizes = {new: axes.example[old] for new, old in zip(row, names, strict=True)}
    rows = tuple(row if i == sequences[0] else one for i, one in enumerate(axes.names))
    return InputAxes(rows, sizes | kept)


def in_frames(solution: Solution, seen: Sequence[Observation], size: int) -> Solution:
    """Constants that count frames, as functions of how many the module takes.

    Args:
        solution: What was found so far.
        seen: A run in which frames were followed; none where they cannot be.
        size: How many it takes.
    """
    if not seen:
        return solution
    run = seen[0]
    outputs = [_read(dims, grid.get(FRAMES), size) for dims, grid in zip(solution.outputs, run.grids, strict=True)]
    inner: Mapping[InnerKey, tuple[Dim, ...]] = {
        key: _read(dims, run.inner[key].grid.get(FRAMES) if key in run.inner else None, size)
        for key, dims in solution.inner.items()
    }
    return replace(solution, outputs=tuple(outputs), inner=dict(inner))


def _read(dims: Sequence[Dim], cells: Cells | None, size: int) -> tuple[Dim, ...]:
    """The dims of a tensor whose frames stand on the one axis that is as long as there are frames."""
    found = [axis for axis, dim in enumerate(dims) if cells is not None and dim.constant == cells.count]
    if cells is None or len(found) != 1 or cells.step.denominator != 1:
        return tuple(dims)
    step, frames = int(cells.step), Dim.axis(FRAMES)
    lost = size // step - cells.count
    options = [frames // step, frames.ceildiv(step), (frames - max(lost, 0) * step) // step]
    right = [one for one in options if one.evaluate({FRAMES: size}) == cells.count]
    return tuple(right[0] if axis == found[0] and right else dim for axis, dim in enumerate(dims))
