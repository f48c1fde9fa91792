"""Position tables: parameters and buffers that a module adds to its tokens, read for the grid of each image."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.contracts.native.positions import resampled_map

__all__ = ["Numbering", "Table", "reading_tables", "running_at"]

# Dimension letters: D what stands beside the tokens, N tokens, R rows, C columns.


@dataclass(frozen=True)
class Table:
    """Where the cells of a grid stand in a table that was learned for it."""

    grid: tuple[int, int]
    """Rows and columns that it was learned for."""
    patch: int
    """Pixels of the image along each side of a cell."""
    axes: tuple[int, ...]
    """The axis of its tokens, or those of its rows and columns."""
    prefix: int = 0
    """Tokens before the cells, which have no place in the image."""

    def count(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of an image."""
        return height // self.patch, width // self.patch

    def read(self, table: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The table for an image of other sizes; itself where these are its own."""
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
    """The numbers 0, 1, 2 ... by which a module looks its tokens up in a table."""

    table: Table

    def read(self, numbers: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """As many numbers as an image of other sizes has tokens."""
        rows, columns = self.table.count(height, width)
        count = numbers.numel() - self.table.grid[0] * self.table.grid[1] + rows * columns
        made = torch.arange(count, dtype=numbers.dtype, device=numbers.device)
        return made.reshape([count if size == numbers.numel() else 1 for size in numbers.shape])


class _Running(threading.local):
    """The sizes of the images that a thread is at work on, the innermost call last."""

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
    """Have calls of a module tell its tables the size of their image, those that raise included."""
    module.register_forward_pre_hook(_begin, with_kwargs=True, prepend=True)
    module.register_forward_hook(_end, with_kwargs=True, always_call=True)


class _Reading:
    """An attribute that is read for the image at hand, within a call; the table itself outside of one."""

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
    """Have a part read some of its attributes as tables; its parameters and their names stay as they are."""
    part.__class__ = _class_of(type(part), tables)


_Tables: TypeAlias = tuple[tuple[str, Table | Numbering], ...]

_CLASSES: dict[tuple[type[nn.Module], _Tables], type[nn.Module]] = {}


def _class_of(cls: type[nn.Module], tables: _Tables) -> type[nn.Module]:
    """A subclass that says the same of itself, and whose objects are copied and pickled by how it is made."""
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
