"""Grids: the spatial axes of tensors in a module that accepts one image size only, read from their shapes.

At a fixed size 56 is only a number. The evidence is the size of the input, and the grids that inner convolutions and
poolings return. An axis that is recognised is written as a function of H or W that is right at the one legal size, so
that strides can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from autoadapt.contracts.capturing.cell_grid import Grid
from autoadapt.contracts.capturing.given_grids import TokenGrid
from autoadapt.contracts.dims import Dim

Shape: TypeAlias = tuple[int, ...]

LARGEST_STRIDE = 64
MOST_PREFIX_TOKENS = 16
MOST_HEADS = 64
MOST_OF_A_HEAD = 256
"""Channels of an attention head."""


def _heads(shapes: Sequence[Shape]) -> set[Shape]:
    """The `(B, heads, N)` of attention tensors `[B, heads, N, D]`, where there are tokens `[B, N, heads*D]`.

    Maps with channels last may fit by chance; not those with the cells of another map, nor with many channels.
    """
    tokens = {shape for shape in shapes if len(shape) == 3}
    likely = [s for s in shapes if len(s) == 4 and s[1] <= MOST_HEADS and s[3] <= MOST_OF_A_HEAD]
    found = {s[:3] for s in likely if (s[0], s[2], s[1] * s[3]) in tokens}
    cells = {s[2:] for s in shapes if len(s) == 4 and s[:3] not in found}
    return {shape for shape in found if shape[1:] not in cells}


_SPATIAL = {4: ((2, 3), (1, 2)), 5: ((2, 3, 4), (1, 2, 3), (1, 3, 4))}
"""By number of axes, those that may be (rows, columns) of an image, or (frames, rows, columns) of a clip."""


def _at(shape: Shape, axes: Sequence[int]) -> Grid:
    """The grid along axes of a shape, the width last."""
    return Grid(*(shape[axis] for axis in (*axes[-2:], *axes[:-2])))


class GridReader:
    """Reads the axes of tensors that a module makes from images or clips of one size.

    Args:
        height: Size of the input axis H.
        width: Size of the input axis W.
        frames: Size of the input axis T; 0 for images.
        shapes: Shapes of all inner outputs, as evidence.
        declared: Grids that the caller states, by the `name` for `read`.

    Example:
        >>> reader = GridReader(224, 224, shapes=[(1, 384, 14, 14)])
        >>> [str(dim) for dim in reader.read((2, 197, 384))], [str(dim) for dim in reader.read((2, 56, 56, 96))]
        (['2', 'floor(H/16)*floor(W/16) + 1', '384'], ['2', 'floor(H/4)', 'floor(W/4)', '96'])
    """

    def __init__(
        self,
        height: int,
        width: int,
        frames: int = 0,
        *,
        shapes: Iterable[Shape] = (),
        declared: Mapping[str, TokenGrid] | None = None,
    ) -> None:
        self._sizes = {"T": frames, "H": height, "W": width}
        self._declared = dict(declared or {})
        self._located: dict[int, tuple[Grid, int]] = {}
        shapes = list(shapes)
        self._heads = _heads(shapes)
        found = {self._grid(shape) for shape in shapes}
        self.grids = sorted(
            (grid for grid in found if grid is not None and grid.cells > 1), key=lambda grid: -grid.cells
        )

    def read(self, shape: Shape, name: str = "") -> tuple[Dim, ...]:
        """The dims of a tensor, spatial axes as functions of T, H and W; axes that cannot be read stay numbers.

        Args:
            shape: The shape, the batch first.
            name: The name of the tensor among the declared grids.
        """
        dims = [Dim(size) for size in shape]
        if name in self._declared and len(shape) == 3:
            told = self._declared[name]
            dims[1] = self._tokens(told.grid, told.extra)
        elif len(shape) == 3 and shape[1] in self._located:
            dims[1] = self._tokens(*self._located[shape[1]])
        elif axes := self._spatial_axes(shape):
            for axis, dim in zip(axes, self._dims(_at(shape, axes)), strict=True):
                dims[axis] = dim
        elif len(shape) == 3:
            token_axis, options = self.token_grids(shape)
            if len(options) == 1:
                grid, prefix = options[0]
                dims[token_axis] = self._tokens(grid, prefix)
        return tuple(dims)

    def locate(self, tokens: int, grid: Grid, prefix: int) -> None:
        """From now on, read axes of so many tokens as this grid behind `prefix` others."""
        self._located[tokens] = (grid, prefix)

    def token_grids(self, shape: Shape) -> tuple[int, list[tuple[Grid, int]]]:
        """The token axis of `[B, N, C]` or `[B, C, N]`, and the grids that it may be, each with its leading tokens."""
        for axis in (1, 2):
            options = [
                (grid, shape[axis] - grid.cells)
                for grid in self.grids
                if 0 <= shape[axis] - grid.cells <= MOST_PREFIX_TOKENS
            ]
            exact = [option for option in options if option[1] == 0]
            if options:
                return axis, exact[:1] if exact else options
        return 1, self._divided_grids(shape[1])

    def _divided_grids(self, tokens: int) -> list[tuple[Grid, int]]:
        """Without evidence: grids of one stride that divides the image evenly, with no leading token or one.

        None for clips, where too many grids fit.
        """
        height, width = self._sizes["H"], self._sizes["W"]
        for prefix in () if self._sizes["T"] else (0, 1):
            found = [
                (Grid(height // stride, width // stride), prefix)
                for stride in range(2, LARGEST_STRIDE + 1)
                if height % stride == 0
                and width % stride == 0
                and (height // stride) * (width // stride) == tokens - prefix
            ]
            if found and tokens - prefix > 1:
                return found
        return []

    def _grid(self, shape: Shape) -> Grid | None:
        axes = self._spatial_axes(shape)
        return _at(shape, axes) if axes else None

    def _spatial_axes(self, shape: Shape) -> tuple[int, ...]:
        """The spatial axes of a tensor; empty where there are none.

        Where several fit, those come first that divide the image evenly, then those with channels in front.
        """
        if len(shape) != (5 if self._sizes["T"] else 4):
            return ()
        if shape[:3] in self._heads:  # `[B, heads, N, D]` of tokens `[B, N, heads*D]`, or their `[B, heads, N, N]`
            return ()
        options = {axes: self._read(_at(shape, axes)) for axes in _SPATIAL[len(shape)]}
        even = [axes for axes, dims in options.items() if dims is not None and dims[1]]
        return next(iter([*even, *(axes for axes, dims in options.items() if dims is not None)]), ())

    def _read(self, grid: Grid) -> tuple[tuple[Dim, ...], bool] | None:
        """The sides of a grid as functions of T, H and W, and whether they are plain floors or ceils of a stride.

        Height and width have the same stride, in volumes the slices need not.
        """
        if min(grid.height, grid.width) < 2:
            return None
        together = (("T",), ("H", "W")) if self._sizes["T"] else (("H", "W"),)
        alone = tuple((name,) for group in together for name in group)
        for groups in dict.fromkeys([together, alone] if self._sizes["T"] else [together]):
            found = [self._read_together(names, grid) for names in groups]
            if (read := [one for one in found if one is not None]) and len(read) == len(found):
                return tuple(dim for dims, _ in read for dim in dims), all(even for _, even in read)
        return None

    def _read_together(self, names: Sequence[str], grid: Grid) -> tuple[tuple[Dim, ...], bool] | None:
        """The sides along some axes with one stride, and whether they are plain floors or ceils of it.

        A convolution without padding loses border cells: 27 cells of 224 pixels at stride 8 are `floor((H - 8)/8)`.
        """
        axes = [(Dim.axis(name), self._sizes[name], grid.sides[name]) for name in names]
        _, first, count = axes[0]
        for stride in dict.fromkeys([round(first / count), first // count]):
            if not 1 <= stride <= LARGEST_STRIDE:
                continue
            if all(size // stride == cells for _, size, cells in axes):
                return tuple(axis // stride for axis, _, _ in axes), True
            if all(-(-size // stride) == cells for _, size, cells in axes):
                return tuple(axis.ceildiv(stride) for axis, _, _ in axes), True
            lost = {size // stride - cells for _, size, cells in axes}
            if stride > 1 and lost in ({1}, {2}):
                shift = stride * lost.pop()
                return tuple((axis - shift) // stride for axis, _, _ in axes), False
        return None

    def _dims(self, grid: Grid) -> tuple[Dim, ...]:
        """The sides of a grid, as numbers where they cannot be read."""
        read = self._read(grid)
        sides = grid.sides.items()
        return read[0] if read is not None else tuple(Dim(cells) for name, cells in sides if self._sizes[name])

    def _tokens(self, grid: Grid, prefix: int) -> Dim:
        """The dim of a token axis: cells and other tokens; a grid of one frame does not depend on T."""
        dims = self._dims(grid)
        return math.prod(dims[-2:] if grid.frames == 1 else dims, start=Dim(1)) + prefix
