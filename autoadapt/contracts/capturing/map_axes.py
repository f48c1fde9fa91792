"""Map axes: which axes of a map list rows and columns, where its sizes fit several, as a square map of one size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from autoadapt.contracts.capturing.cell_grid import Grid
from autoadapt.contracts.capturing.perturbing import axes_of_cells
from autoadapt.contracts.dims import Dim

FEWEST = 3
"""The fewest rows and columns with which changed patches show the axes."""


@dataclass(frozen=True)
class MapAxes:
    """The dims of a map, samples first, as they were read from its sizes."""

    dims: tuple[Dim, ...]
    rows: int
    """The axis that was taken for rows."""
    columns: int
    """The axis that was taken for columns."""
    grid: Grid

    def as_seen(self, tensor: torch.Tensor, images: int) -> tuple[Dim, ...]:
        """The dims as a run on images with changed patches shows them; unchanged where it shows nothing."""
        if tensor.dim() != len(self.dims) or len(tensor) != images:
            return self.dims
        rows, columns = axes_of_cells(tensor, (self.rows, self.columns), self.grid)
        before = ({1, 2, 3} - {self.rows, self.columns}).pop()
        after = ({1, 2, 3} - {rows, columns}).pop()
        found = {rows: self.dims[self.rows], columns: self.dims[self.columns], after: self.dims[before]}
        return (self.dims[0], *(found[axis] for axis in (1, 2, 3)))


def map_axes(dims: Sequence[Dim], batch: Dim, sizes: Mapping[str, int]) -> MapAxes | None:
    """The axes of a map, if other axes have the same sizes; None where sizes leave no doubt, or it is no map.

    Example:
        >>> def read(*dims):
        ...     return map_axes([Dim.parse(dim) for dim in dims], Dim.axis("B"), {"B": 2, "H": 224, "W": 224})
        >>> read("B", "8", "floor(H/16)", "floor(W/16)").grid
        Grid(height=14, width=14, frames=1)
        >>> read("B", "8", "floor(H/16)", "floor(W/8)") is None
        True
    """
    axes = [[axis for axis, dim in enumerate(dims) if dim.axes == {name}] for name in "HW"]
    if len(dims) != 4 or dims[0] != batch or [len(found) for found in axes] != [1, 1]:
        return None
    rows, columns = axes[0][0], axes[1][0]
    values = [int(dim.evaluate(sizes)) for dim in dims]
    grid = Grid(values[rows], values[columns])
    pairs = itertools.permutations((1, 2, 3), 2)
    fitting = [pair for pair in pairs if Grid(values[pair[0]], values[pair[1]]) == grid]
    return (
        MapAxes(tuple(dims), rows, columns, grid)
        if len(fitting) > 1 and min(grid.height, grid.width) >= FEWEST
        else None
    )
