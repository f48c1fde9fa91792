"""Fixed sequences: dims in N for the outputs of a module that takes sequences of one length only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from autoadapt.contracts.capturing.cell_axes import Cells
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.inner_leaves import InnerKey
from autoadapt.contracts.capturing.probing import Observation
from autoadapt.contracts.capturing.solving import Solution
from autoadapt.contracts.dims import Dim

FRAMES = "N"
"""The axis that lists frames."""


def with_frames(axes: InputAxes, module: nn.Module) -> list[InputAxes]:
    """The input axes with one named as frames, the other as channels, by the input channels of the first layer.

    Both readings where that number fits both axes or none, or where the first layer is a Conv2d.

    Args:
        axes: The axes of its inputs, of which only the batch may vary.
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
    """The tensors of two fixed axes behind the batch whose frames their number alone does not show."""
    dims = solution.dims
    fixed = [key for key, one in dims.items() if len(one) == 3 and all(dim.constant is not None for dim in one[1:])]
    return [key for key in fixed if _read(dims[key], _cells(seen, key), size) == tuple(dims[key])]


def in_frames(solution: Solution, seen: Observation, size: int, told: Mapping[InnerKey | int, int]) -> Solution:
    """Replace constant dims that count frames by functions of N.

    Args:
        solution: What was found so far.
        seen: A run in which frames were followed.
        size: How many frames the module takes.
        told: The axis that lists frames, of tensors for which a real run showed it.
    """
    outputs = [_read(dims, _cells(seen, i), size, told.get(i)) for i, dims in enumerate(solution.outputs)]
    inner = {key: _read(dims, _cells(seen, key), size, told.get(key)) for key, dims in solution.inner.items()}
    return replace(solution, outputs=tuple(outputs), inner=inner)


def _cells(seen: Observation, key: InnerKey | int) -> Cells | None:
    grid = seen.grids[key] if isinstance(key, int) else seen.inner[key].grid if key in seen.inner else {}
    return grid.get(FRAMES)


def _read(dims: Sequence[Dim], cells: Cells | None, size: int, told: int | None = None) -> tuple[Dim, ...]:
    """The dims of a tensor, its frame axis as a function of N: the one that is told, else the one of that length."""
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
