"""Given grids: what a caller states about token axes, checked against the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from autoadapt.contracts.capturing.probing import Observation
from autoadapt.contracts.trees import path_text, paths
from autoadapt.errors import CaptureError, Mismatch, nearest

__all__ = ["TokenGrid", "check_grids", "given_grids"]

FORM = "(rows, columns, leading_tokens, trailing_tokens)"


class TokenGrid(NamedTuple):
    """What the tokens of one axis are."""

    rows: int
    columns: int
    leading: int = 0
    trailing: int = 0

    @property
    def extra(self) -> int:
        """Tokens that are no cells."""
        return self.leading + self.trailing

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.rows * self.columns + self.extra


def given_grids(grid: Mapping[str, tuple[int, ...]] | None) -> dict[str, TokenGrid]:
    """Rows, columns and leading tokens, and trailing ones where there are any, by name.

    Raises:
        CaptureError: One is something else.

    Example:
        >>> given_grids({"blocks.11": (14, 14, 1)})["blocks.11"].tokens
        197
    """
    faults = [
        Mismatch(f"grid[{name!r}]", FORM, repr(sizes), f'grid={{"{name}": (14, 14, 1, 0)}}')
        for name, sizes in (grid or {}).items()
        if len(sizes) not in (3, 4) or min(sizes) < 0 or min(sizes[:2]) < 1
    ]
    if faults:
        raise CaptureError("a grid is not told by three or four whole numbers", faults)
    return {name: TokenGrid(*sizes) for name, sizes in (grid or {}).items()}


def check_grids(grids: Mapping[str, TokenGrid], module: nn.Module, observed: Observation) -> None:
    """Refuse grids of what does not exist, or of another number of tokens.

    Raises:
        CaptureError: Naming each.
    """
    outputs = dict(zip(map(path_text, paths(observed.tree)), observed.shapes, strict=True))
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
            faults.append(Mismatch(f"grid[{name!r}]", FORM, found, _remedy(name, grid, shape[1])))
    if faults:
        raise CaptureError("a grid that was told does not fit its tensor", faults)


def _sum(grid: TokenGrid) -> str:
    return f"{grid.rows} x {grid.columns} + {grid.leading} + {grid.trailing}"


def _remedy(name: str, grid: TokenGrid, tokens: int) -> str:
    """The same grid with as many trailing tokens as are left over."""
    left = tokens - grid.rows * grid.columns - grid.leading
    return f'grid={{"{name}": ({grid.rows}, {grid.columns}, {grid.leading}, {left})}}' if left > 0 else ""
