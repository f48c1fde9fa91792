"""Position tables of modules of unknown code, found by running them.

A parameter or buffer is a position table where it is added to as many tokens as it has rows, and a change of one
patch of the image changes the one token at that patch's place in row-major order.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoadapt.contracts.caches import OutsideCaches
from autoadapt.contracts.native.lifts import Lift, grid_text
from autoadapt.contracts.native.tables import Numbering, Table, reading_tables, running_at
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.views import eval_copy, uncompiled

_ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")
_UNTRACED = "its position tables were found by running it, and are read for each call"


def tables_of(module: nn.Module, size: tuple[int, int], channels: int) -> Lift | None:
    """The lift of a module that adds position tables to its tokens; None where none is found.

    Args:
        module: The module; a copy of it runs a few times, in eval mode.
        size: Height and width of its images.
        channels: Channels of its images.
    """
    module = uncompiled(module)
    reference = next((p for p in module.parameters() if p.is_floating_point()), None)
    if reference is None or reference.is_meta or not all(size):
        return None
    copied = eval_copy(module)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, channels, *size), generator=generator).to(reference.device, reference.dtype)
    try:
        with torch.no_grad(), OutsideCaches(copied).kept():
            found = dict(_found(copied, image))
    except Exception:  # whatever a model raises
        return None
    return _lift(module, size, found) if found else None


def _lift(module: nn.Module, size: tuple[int, int], found: dict[str, Table]) -> Lift:
    """The changes that let a module resample the tables found in it."""
    by_part: dict[str, list[tuple[str, Table | Numbering]]] = {}
    for name, table in (found | _numberings(module, found)).items():
        path, _, attribute = name.rpartition(".")
        by_part.setdefault(path, []).append((attribute, table))
    changes = [(path, functools.partial(reading_tables, tables=tuple(each))) for path, each in by_part.items()]
    step = math.lcm(*(table.patch for table in found.values()))
    what = ", ".join(f"position table {name} {grid_text(table.grid)} resampled" for name, table in found.items())
    return Lift(size, what[:300], (*changes, ("", running_at)), steps=(step, step), untraced=_UNTRACED)


def _numberings(module: nn.Module, found: dict[str, Table]) -> dict[str, Numbering]:
    """Buffers that hold the row numbers 0, 1, 2 ... of a table, as `position_ids` does."""
    integers = {name: one.flatten() for name, one in module.named_buffers() if one.dtype in (torch.int64, torch.int32)}
    numbering = [name for name, one in integers.items() if torch.equal(one, torch.arange(len(one)).to(one))]
    return {
        name: Numbering(table)
        for name, table in itertools.product(numbering, found.values())
        if len(integers[name]) >= table.prefix + math.prod(table.grid)
    }


def _found(module: nn.Module, image: torch.Tensor) -> Iterator[tuple[str, Table]]:
    """Tables by name, where runs with one changed patch show which cell each row belongs to."""
    height, width = image.shape[-2:]
    for name, addition in _additions(module, image).items():
        for axes in _token_axes(addition):
            grid = _grid(math.prod(addition.table.shape[axis] for axis in axes), height, width)
            if grid is None:
                continue
            patch = height // grid[0]
            prefix = _prefix(module, image, name, addition, axes, grid)
            if prefix is not None and (len(axes) == 1 or tuple(addition.table.shape[a] for a in axes) == grid):
                yield name, Table(grid, patch, axes, prefix)
                break


@dataclass
class _Addition:
    """A table and the tokens that it was added to, of any layout that broadcasts."""

    table: torch.Tensor
    tokens: torch.Tensor


@dataclass
class _Additions(TorchFunctionMode):
    """Notes which parameters and buffers of a module are added to tensors that it computes."""

    tables: dict[int, str]
    """Names of its tensors, by the address of their storage."""
    found: dict[str, _Addition] = field(default_factory=dict)
    looked_up: dict[int, tuple[str, torch.Tensor]] = field(default_factory=dict)
    """Results of `embedding`, by `id`, with the name of the table; held, so that no other tensor gets the `id`."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        if name in _ADDITIONS and len(tensors) == 2:
            for table, tokens in itertools.permutations(tensors):
                self._note(table, tokens)
        made = func(*args, **(kwargs or {}))
        if name == "embedding" and len(tensors) == 2:
            self.looked_up[id(made)] = (self.tables.get(_storage(tensors[1]), ""), made)
        return made

    def _note(self, table: torch.Tensor, tokens: torch.Tensor) -> None:
        name = self.looked_up.get(id(table), (self.tables.get(_storage(table), ""),))[0]
        if name and _storage(tokens) not in self.tables and name not in self.found:
            self.found[name] = _Addition(table.detach(), tokens.detach().clone())


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _additions(module: nn.Module, image: torch.Tensor) -> dict[str, _Addition]:
    """The parameters and buffers that a module adds to tensors it computes from an image, by name."""
    own = itertools.chain(module.named_parameters(), module.named_buffers())
    named = {name: tensor for name, tensor in own if tensor.is_floating_point() and tensor.dim() >= 2}
    with undisturbed(), _Additions({_storage(tensor): name for name, tensor in named.items()}) as mode:
        module(image)
    return {
        name: _Addition(named[name], one.tokens)
        for name, one in mode.found.items()
        if _squeezed(one.table.shape) == _squeezed(named[name].shape)
    }


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(itertools.dropwhile(lambda size: size == 1, shape))


def _token_axes(addition: _Addition) -> Iterator[tuple[int, ...]]:
    """The axes of a table that may list tokens, or rows and columns: of a size above 1, beside channels."""
    shape, dims = addition.table.shape, addition.table.dim()
    long = [axis for axis in range(dims) if shape[axis] > 1]
    if len(long) == 2:
        yield from ((axis,) for axis in long)
    if len(long) == 3:
        yield from ((axis, axis + 1) for axis in (long[1], long[0]) if axis + 1 in long)


def _grid(tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of the image in the smallest square patches of which there are no more than tokens."""
    sides = (side for side in range(1, math.gcd(height, width) + 1) if math.gcd(height, width) % side == 0)
    grids = ((height // side, width // side) for side in sides)
    found = next((grid for grid in grids if math.prod(grid) <= tokens), None)
    return found if found is not None and math.prod(found) > 1 and tokens - math.prod(found) < 16 else None


def _prefix(
    module: nn.Module,
    image: torch.Tensor,
    name: str,
    addition: _Addition,
    axes: tuple[int, ...],
    grid: tuple[int, int],
) -> int | None:
    """How many tokens stand before the cells; None where the tokens are not the cells of the grid, row by row."""
    (rows, columns), patch = grid, image.shape[-2] // grid[0]
    token_axes = [axis - addition.table.dim() + addition.tokens.dim() for axis in axes]
    sizes = [addition.table.shape[axis] for axis in axes]
    if min(token_axes) < 0 or sizes != [addition.tokens.shape[axis] for axis in token_axes]:
        return None
    before = _by_token(addition.tokens, token_axes)
    seen = set()
    places = {(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)}
    for row, column in sorted(places):
        changed = image.clone()
        changed[..., row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 1
        after = _additions(module, changed).get(name)
        if after is None:
            return None
        moved = (_by_token(after.tokens, token_axes) - before).abs().sum(1)
        seen.add(int(moved.argmax()) - (row * columns + column))
    return seen.pop() if len(seen) == 1 and min(seen) >= 0 else None


def _by_token(tokens: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """The tensor as a matrix `[tokens, values]`, for the token axes given."""
    first = tokens.movedim(tuple(axes), tuple(range(len(axes))))
    return first.reshape(math.prod(first.shape[: len(axes)]), -1).double()
