"""Position tables: parameters and buffers that a view resamples for the grid of each image when its code reads them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.contracts.native.positions import resampled_map

# Dimension letters: D all axes but that of tokens, N tokens, R rows, C columns.


@dataclass(frozen=True)
class Table:
    """A position table: where it lists the cells of the grid that it was learned for."""

    grid: tuple[int, int]
    """Rows and columns of the grid."""
    patch: int
    """Height and width of a cell in pixels."""
    axes: tuple[int, ...]
    """The axis of the table that lists tokens, or its two axes of rows and columns."""
    prefix: int = 0
    """Tokens before the cells, such as a class token."""

    def count(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of cells in an image."""
        return height // self.patch, width // self.patch

    def read(self, table: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The table for an image of some height and width; itself where the grid is its own."""
        rows, columns = self.count(height, width)
        if (rows, columns) == self.grid:
            return table
        if len(self.axes) == 2:
            moved = table.movedim(self.axes, (-2, -1))
            cells_1DRC = moved.reshape(1, -1, *self.grid)
            made = resampled_map(cells_1DRC, rows, columns).reshape(*moved.shape[:-2], rows, columns)
            return made.movedim((-2, -1), self.axes)
        moved = table.movedim(self.axes[0], -1)
        flat_DN, end = moved.reshape(-1, moved.shape[-1]), self.prefix + self.grid[0] * self.grid[1]
        cells_1DRC = flat_DN[:, self.prefix : end].reshape(1, -1, *self.grid)
        cells_DN = resampled_map(cells_1DRC, rows, columns).squeeze(0).flatten(1)
        made = torch.cat([flat_DN[:, : self.prefix], cells_DN, flat_DN[:, end:]], dim=1)
        return made.reshape(*moved.shape[:-1], -1).movedim(-1, self.axes[0])


@dataclass(frozen=True)
class Numbering:
    """A buffer of the numbers 0, 1, 2 ... by which a module looks up the rows of a table, such as `position_ids`."""

    table: Table

    def read(self, numbers: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """As many numbers as an image of some height and width has tokens."""
        rows, columns = self.table.count(height, width)
        count = numbers.numel() - self.table.grid[0] * self.table.grid[1] + rows * columns
        made = torch.arange(count, dtype=numbers.dtype, device=numbers.device)
        return made.reshape([count if size == numbers.numel() else 1 for size in numbers.shape])


class _Running(threading.local):
    """Height and width of the image of each running call, the innermost last; each thread has its own."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []


_RUNNING = _Running()


def _begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    images = (one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor) and one.dim() == 4)
    found = next(images, None)
    _RUNNING.sizes.append((0, 0) if found is None else (found.shape[-2], found.shape[-1]))


def _end(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    _RUNNING.sizes.pop()


def running_at(module: nn.Module) -> None:
    """Hook a module so that its tables know the size of the image of the running call."""
    module.register_forward_pre_hook(_begin, with_kwargs=True, prepend=True)
    module.register_forward_hook(_end, with_kwargs=True, always_call=True)


class _Reading:
    """A descriptor for an attribute: within a call the table for the image at hand, else the table itself."""

    def __init__(self, name: str, table: Table | Numbering) -> None:
        self.name, self.table = name, table

    def __get__(self, part: nn.Module | None, owner: type | None = None) -> Any:
        if part is None:
            return self
        places = (vars(part), *(vars(part).get(kind, {}) for kind in ("_parameters", "_buffers")))
        held = [place[self.name] for place in places if self.name in place]
        if not held:
            raise AttributeError(f"{type(part).__name__!r} object has no attribute {self.name!r}")
        kept = held[0]
        height, width = _RUNNING.sizes[-1] if _RUNNING.sizes else (0, 0)
        return self.table.read(kept, height, width) if kept is not None and height else kept

    def __set__(self, part: nn.Module, value: Any) -> None:
        vars(part)[self.name] = value


def reading_tables(part: nn.Module, tables: tuple[tuple[str, Table | Numbering], ...]) -> None:
    """Let a submodule read some of its attributes as tables; its parameters and their names stay."""
    part.__class__ = _class_of(type(part), tables)


_Tables: TypeAlias = tuple[tuple[str, Table | Numbering], ...]

_CLASSES: dict[tuple[type[nn.Module], _Tables], type[nn.Module]] = {}


def _class_of(cls: type[nn.Module], tables: _Tables) -> type[nn.Module]:
    """A subclass of the same name with a descriptor for each table; objects are copied and pickled by their recipe."""
    if (cls, tables) not in _CLASSES:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        read = {name: _Reading(name, table) for name, table in tables}
        own = {**names, **read, "__reduce_ex__": _reduced, "_made_of": (cls, tables)}
        _CLASSES[cls, tables] = type(cls.__name__, (cls,), own)
    return _CLASSES[cls, tables]


def _reduced(part: Any, protocol: int) -> tuple[Any, ...]:
    return _remade, type(part)._made_of, part.__getstate__() if hasattr(part, "__getstate__") else vars(part)


def _remade(cls: type[nn.Module], tables: _Tables) -> nn.Module:
    made = _class_of(cls, tables)
    return made.__new__(made)
