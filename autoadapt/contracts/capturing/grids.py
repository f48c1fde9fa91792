"""Grids: the spatial axes of a module that accepts one image size only, read where numbers alone do not tell.

At a fixed size 56 is only a number. What is known: the size of the input, and the grids that inner convolutions and
poolings return. Each axis found is written as a function of the input axis that is right at the one legal size, so
that strides can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from autoadapt.contracts.capturing.given_grids import TokenGrid
from autoadapt.contracts.dims import Dim

__all__ = ["Grid", "GridReader"]

Shape: TypeAlias = tuple[int, ...]

LARGEST_STRIDE = 64
MOST_PREFIX_TOKENS = 16
MOST_HEADS = 64
MOST_OF_A_HEAD = 256
"""Channels of one head of attention."""


@dataclass(frozen=True)
class Grid:
    """Cells along height and width."""

    height: int
    width: int

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return self.height * self.width


def _heads(shapes: Sequence[Shape]) -> set[Shape]:
    """What `[B, heads, N, D]` of attention begins with, for tokens `[B, N, heads*D]`.

    Maps with channels last may fit by chance: those of the cells that a convolution made, and those of many channels.
    """
    tokens = {shape for shape in shapes if len(shape) == 3}
    likely = [s for s in shapes if len(s) == 4 and s[1] <= MOST_HEADS and s[3] <= MOST_OF_A_HEAD]
    found = {s[:3] for s in likely if (s[0], s[2], s[1] * s[3]) in tokens}
    cells = {s[2:] for s in shapes if len(s) == 4 and s[:3] not in found}
    return {shape for shape in found if shape[1:] not in cells}


class GridReader:
    """Reads the axes of tensors that a module makes from images of one size.

    Args:
        height: Size of the input axis H.
        width: Size of the input axis W.
        shapes: Shapes of all that inner modules return, as evidence.
        declared: Grids and numbers of other tokens that the caller states, by what `read` is asked for; tensors
            of as many tokens are read alike.

    Example:
        >>> reader = GridReader(224, 224, shapes=[(1, 384, 14, 14)])
        >>> [str(dim) for dim in reader.read((2, 197, 384))], [str(dim) for dim in reader.read((2, 56, 56, 96))]
        (['2', 'floor(H/16)*floor(W/16) + 1', '384'], ['2', 'floor(H/4)', 'floor(W/4)', '96'])
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        shapes: Iterable[Shape] = (),
        declared: Mapping[str, TokenGrid] | None = None,
    ) -> None:
        self._height = height
        self._width = width
        self._declared = dict(declared or {})
        self._located: dict[int, tuple[Grid, int]] = {}
        shapes = list(shapes)
        self._heads = _heads(shapes)
        found = {self._grid(shape) for shape in shapes if len(shape) == 4}
        self.grids = sorted(
            (grid for grid in found if grid is not None and grid.cells > 1), key=lambda grid: -grid.cells
        )

    def read(self, shape: Shape, name: str = "") -> tuple[Dim, ...]:
        """The dims of a tensor, spatial axes as functions of H and W; what cannot be read stays a number.

        Args:
            shape: The shape, the batch first.
            name: What the tensor is called, to look up what the caller declared.
        """
        dims = [Dim(size) for size in shape]
        if name in self._declared and len(shape) == 3:
            told = self._declared[name]
            dims[1] = self._tokens(Grid(told.rows, told.columns), told.extra)
        elif len(shape) == 3 and shape[1] in self._located:
            dims[1] = self._tokens(*self._located[shape[1]])
        elif len(shape) == 4:
            axis = self._spatial_axis(shape)
            if axis is not None:
                dims[axis : axis + 2] = self._dims(Grid(*shape[axis : axis + 2]))
        elif len(shape) == 3:
            token_axis, options = self.token_grids(shape)
            if len(options) == 1:
                grid, prefix = options[0]
                dims[token_axis] = self._tokens(grid, prefix)
        return tuple(dims)

    def locate(self, tokens: int, grid: Grid, prefix: int) -> None:
        """Read axes of so many tokens as a grid behind others, whatever else they may be."""
        self._located[tokens] = (grid, prefix)

    def token_grids(self, shape: Shape) -> tuple[int, list[tuple[Grid, int]]]:
        """The axis of `[B, N, C]` or `[B, C, N]` that holds tokens, and the grids (with leading tokens) it may be."""
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
        """Without evidence: grids that divide the image evenly, by one stride, without leading tokens or with one."""
        for prefix in (0, 1):
            found = [
                (Grid(self._height // stride, self._width // stride), prefix)
                for stride in range(2, LARGEST_STRIDE + 1)
                if self._height % stride == 0
                and self._width % stride == 0
                and (self._height // stride) * (self._width // stride) == tokens - prefix
            ]
            if found and tokens - prefix > 1:
                return found
        return []

    def _grid(self, shape: Shape) -> Grid | None:
        axis = self._spatial_axis(shape)
        return None if axis is None else Grid(*shape[axis : axis + 2])

    def _spatial_axis(self, shape: Shape) -> int | None:
        """Where height and width stand in four axes: what divides evenly first, then channels before cells."""
        if shape[:3] in self._heads:  # `[B, heads, N, D]` of tokens `[B, N, heads*D]`, or their `[B, heads, N, N]`
            return None
        options = [(axis, self._read(Grid(*shape[axis : axis + 2]))) for axis in (2, 1)]
        even = [axis for axis, dims in options if dims is not None and dims[1]]
        return next(iter([*even, *(axis for axis, dims in options if dims is not None)]), None)

    def _read(self, grid: Grid) -> tuple[tuple[Dim, Dim], bool] | None:
        """Height and width of a grid as functions of H and W of one stride, and whether they only round.

        A convolution without padding loses border cells: 27 cells of 224 pixels at stride 8 are `floor((H - 8)/8)`.
        """
        if min(grid.height, grid.width) < 2:
            return None
        sizes = ((Dim.axis("H"), self._height, grid.height), (Dim.axis("W"), self._width, grid.width))
        for stride in dict.fromkeys([round(self._height / grid.height), self._height // grid.height]):
            if not 1 <= stride <= LARGEST_STRIDE:
                continue
            if all(size // stride == cells for _, size, cells in sizes):
                return (sizes[0][0] // stride, sizes[1][0] // stride), True
            if all(-(-size // stride) == cells for _, size, cells in sizes):
                return (sizes[0][0].ceildiv(stride), sizes[1][0].ceildiv(stride)), True
            lost = [size // stride - cells for _, size, cells in sizes]
            if stride > 1 and lost[0] == lost[1] and lost[0] in (1, 2):
                shift = lost[0] * stride
                return ((sizes[0][0] - shift) // stride, (sizes[1][0] - shift) // stride), False
        return None

    def _dims(self, grid: Grid) -> tuple[Dim, Dim]:
        read = self._read(grid)
        return read[0] if read is not None else (Dim(grid.height), Dim(grid.width))

    def _tokens(self, grid: Grid, prefix: int) -> Dim:
        height, width = self._dims(grid)
        return height * width + prefix
