"""Given grids: the argument `grid=`, with which a caller states the grid of token axes, and its checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from autoadapt.contracts.capturing.cell_grid import Grid
from autoadapt.contracts.capturing.probing import Observation
from autoadapt.errors import CaptureError, Mismatch, nearest

_IMAGE_FORM = "rows, columns, leading_tokens, trailing_tokens"
_FORMS = (f"({_IMAGE_FORM})", f"(frames, {_IMAGE_FORM})")
_EXAMPLES = ("(14, 14, 1, 0)", "(8, 14, 14, 1, 0)")


class TokenGrid(NamedTuple):
    """A token axis as cells, and tokens before and behind them."""

    rows: int
    columns: int
    leading: int = 0
    trailing: int = 0
    frames: int = 1
    of_clip: bool = False
    """Whether the caller gave the number of frames, or of slices of a volume, first."""

    @property
    def grid(self) -> Grid:
        """The cells."""
        return Grid(self.rows, self.columns, self.frames)

    @property
    def form(self) -> str:
        """What the caller's numbers mean, as text."""
        return _FORMS[self.of_clip]

    @property
    def shown(self) -> tuple[int, ...]:
        """The caller's numbers."""
        return (*((self.frames,) if self.of_clip else ()), *self[:4])

    @property
    def extra(self) -> int:
        """Tokens that are no cells."""
        return self.leading + self.trailing

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.grid.cells + self.extra


def given_grids(grid: Mapping[str, tuple[int, ...]] | None, *, of_clip: bool = False) -> dict[str, TokenGrid]:
    """The argument `grid=` as values.

    Args:
        grid: By output path or module path: rows, columns, leading tokens, and trailing tokens where there are any.
        of_clip: Whether the input is a clip or a volume, so that frames or slices come first.

    Raises:
        CaptureError: There are too few or too many numbers, or one is negative.

    Example:
        >>> given_grids({"blocks.11": (14, 14, 1)})["blocks.11"].tokens
        197
        >>> given_grids({"blocks.11": (8, 14, 14, 1)}, of_clip=True)["blocks.11"].tokens
        1569
    """
    axes = 3 if of_clip else 2
    faults = [
        Mismatch(f"grid[{name!r}]", _FORMS[of_clip], repr(sizes), f'grid={{"{name}": {_EXAMPLES[of_clip]}}}')
        for name, sizes in (grid or {}).items()
        if len(sizes) not in (axes + 1, axes + 2) or min(sizes) < 0 or min(sizes[:axes]) < 1
    ]
    if faults:
        counts = "four or five" if of_clip else "three or four"
        raise CaptureError(f"a grid is given by {counts} whole numbers", faults)
    return {name: _token_grid(sizes if of_clip else (1, *sizes), of_clip) for name, sizes in (grid or {}).items()}


def _token_grid(sizes: Sequence[int], of_clip: bool) -> TokenGrid:
    frames, rows, columns, leading, trailing = (*sizes, 0)[:5]
    return TokenGrid(rows, columns, leading, trailing, frames, of_clip)


def check_grids(grids: Mapping[str, TokenGrid], module: nn.Module, observed: Observation) -> None:
    """Refuse grids for unknown outputs and modules, and grids of another number of tokens.

    Raises:
        CaptureError: There are some; all of them are listed.
    """
    outputs = dict(zip(observed.paths, observed.shapes, strict=True))
    inner = {path: leaf.shape for (path, call, _), leaf in reversed(observed.inner.items()) if call == 0}
    known = {*outputs, *(name for name, _ in module.named_modules() if name)}
    faults = []
    for name, grid in grids.items():
        shape = outputs.get(name, inner.get(name, ()))
        if name not in known:
            near = nearest(name, known)
            faults.append(Mismatch(f"grid[{name!r}]", "an output or a module", "none of that name", *near[:1]))
        elif len(shape) == 3 and grid.tokens not in shape[1:]:
            found = f"{shape[1]} tokens, where {_sum(grid)} = {grid.tokens}"
            faults.append(Mismatch(f"grid[{name!r}]", grid.form, found, _remedy(name, grid, shape[1])))
    if faults:
        raise CaptureError("a grid that was told does not fit its tensor", faults)


def _sum(grid: TokenGrid) -> str:
    frames = f"{grid.frames} x " if grid.of_clip else ""
    return f"{frames}{grid.rows} x {grid.columns} + {grid.leading} + {grid.trailing}"


def _remedy(name: str, grid: TokenGrid, tokens: int) -> str:
    """The same grid with as many trailing tokens as are left over."""
    left = tokens - grid.grid.cells - grid.leading
    return f'grid={{"{name}": {(*grid.shown[:-1], left)}}}' if left > 0 else ""
