"""Centres: where in the input the cells of every tensor lie, followed through a forward pass operation by operation.

A cell of a map sees a window of the input, its receptive field; its centre is the middle of that window. With a kernel
of k cells, dilation d, p cells of padding in front and stride s, the centre of the first cell moves by
`d*(k - 1)/2 - p` cells of the map that is read, and the step grows s times (Araujo, Norris and Sim, Computing Receptive
Fields of Convolutional Neural Networks, Distill 2019). For symmetric padding this is `(s - 1 - a)/2` where there are
`floor((size + a)/s)` cells. Sizes cannot tell padding on one side from padding on two, so the centres are computed from
the operations that torch runs, on the meta device as well.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from autoadapt.contracts.capturing.by_tensor import ByTensor
from autoadapt.contracts.capturing.cell_axes import Cells, Grid, listing_axes, whole_axes
from autoadapt.contracts.capturing.class_tokens import class_tokens_followed
from autoadapt.contracts.capturing.end_tokens import end_tokens_followed
from autoadapt.contracts.capturing.merging import TURNING, merging_followed
from autoadapt.contracts.capturing.value_bounds import CLAMPING, value_bounds_followed

Tensors: TypeAlias = Sequence[torch.Tensor]

_Rule: TypeAlias = Callable[[Cells, int, Mapping[str, Any], int], Cells]
"""The cells that an operation makes along an axis. It is given the cells that are read; the axis, from the end, or for
`_ALONG` the number of the output; the operation's arguments by name; the new number of cells."""


class CentresFollowed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the cells along input axes through all operations that run while it is active.

    Cells are not tied to axes of a tensor. Reshaping keeps them; an operation that moves cells finds their axes again
    by their number. The result of any other operation has the cells of the tensor that it reads.
    """

    def __init__(self, inputs: Iterable[tuple[torch.Tensor, Sequence[str]]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._grids = ByTensor[Grid]()
        self.class_tokens, self.bounds = class_tokens_followed(), value_bounds_followed()
        self.end_tokens = end_tokens_followed(self._sequence)
        self.merging = merging_followed(self.grid, _SPATIAL, _MOVING)
        self.unfollowed: set[str] = set()
        """Operations whose rule raised."""
        self._lengths: set[int] = set()
        self._names: dict[str, None] = {}
        for tensor, names in inputs:
            no_cells = "BC" if "H" in names else "B"  # where N and C are two guesses, a layer may work along C
            sizes = {one: size for one, size in zip(names, tensor.shape, strict=True) if one and one[0] not in no_cells}
            self._grids.put(tensor, {name: Cells(Fraction(0), Fraction(1), size) for name, size in sizes.items()})
            self._names |= dict.fromkeys(sizes)
            self._lengths |= {size for name, size in sizes.items() if name[0] in "NT" and "H" not in sizes}

    def grid(self, tensor: torch.Tensor) -> Grid:
        """The cells of a tensor; empty where it depends on no input."""
        return self._grids.get(tensor) or {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        returned = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        try:
            self._follow(func, name, args, kwargs or {}, returned)
        except Exception:  # an argument that a rule does not know costs the cells of this result alone
            self.unfollowed.add(name)
            for tensor in _tensors([returned]):
                self._grids.put(tensor, {})
        return returned

    def _follow(self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], returned: Any) -> None:
        """Note cells and kinds of what an operation returned."""
        given = [*_tensors(args), *_tensors(kwargs.values())]
        if (
            name not in _MOVING
            and given
            and (name not in _JOINING or len(given) == 1)
            and _is_alike(returned, given[0])
            and (grid := self._grids.get(given[0])) is not None
        ):
            self._grids.put(returned, grid)  # the short way for most operations
            named = _named(func, args, kwargs) if name in _READ_BY_NAME else {}
            moving = self._moving(given)
            self.class_tokens.note(name, named, moving, [returned])
            self._note_kinds(name, named, moving, [returned])
        elif moving := self._moving(given):
            named, made = _named(func, args, kwargs), list(_tensors([returned]))
            self.class_tokens.note(name, named, moving, made)
            self._note(name, named, given, made)
            self._note_kinds(name, named, moving, made)

    def _note_kinds(self, name: str, named: Mapping[str, Any], moving: Tensors, made: Tensors) -> None:
        for follower in (self.bounds, self.end_tokens, self.merging):
            follower.note(name, named, moving, made)

    def _sequence(self, tensor: torch.Tensor) -> list[int]:
        """The axes that list tokens or frames; else those of the same size, as behind recurrent layers."""
        axes, _ = listing_axes(self.grid(tensor), tensor.shape, range(tensor.dim()))
        known = [axis for axis, name in axes.items() if name[0] in "NT"]
        return known or [axis for axis, size in enumerate(tensor.shape) if size in self._lengths]

    def _moving(self, given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors that depend on the input."""
        return [tensor for tensor in given if self._grids.get(tensor) is not None]

    def _note(
        self, name: str, named: Mapping[str, Any], given: Sequence[torch.Tensor], made: Sequence[torch.Tensor]
    ) -> None:
        """Note the grids of a function's outputs, from those of its inputs."""
        for number, output in enumerate(made):
            if name in _SPATIAL:
                grid = self._moved(_SPATIAL[name], given[0], output, named)
            elif name in _ALONG:
                grid = self._along(_ALONG[name], named, output, number)
            elif name in _REVERSING:
                grid = self._turned(given[0], dict.fromkeys(_REVERSING[name](named), Cells.flipped))
            elif name == "roll":
                grid = self._turned(given[0], _rolling(**named))
            elif name in _REORDERING and output.shape == given[0].shape and self.grid(given[0]):
                grid = self._turned(given[0], dict.fromkeys(_REORDERING[name](named), Cells.reordered))
            elif name in _TRANSFORMS:
                axes, known = listing_axes(self.grid(given[0]), given[0].shape, range(given[0].dim()))
                mixed = {axes.get(axis % given[0].dim()) for axis in named["dim"]}
                grid = {axis: cells for axis, cells in known.items() if axis not in mixed}
            else:
                grids = [self.grid(tensor) for tensor in given]
                grid = self._kept(grids, output, mixes=name in ("cat", "stack"))
                joined = self.class_tokens.of(output) if name == "cat" else None
                keeps = name in _RESHAPING or (joined is not None and joined.learned)
                grid = grid if keeps else _left(grid, self._moving(given), output)
                grid = _unmixed(grid, named[_PRODUCTS[name]]) if name in _PRODUCTS else grid
            self._grids.put(output, grid)

    def _moved(self, rule: _Rule, read: torch.Tensor, output: torch.Tensor, named: Mapping[str, Any]) -> Grid:
        """Convolutions, poolings, interpolation and padding, along the last axes."""
        grid = self.grid(read)
        if output.dim() != read.dim():
            axes, known = listing_axes(grid, read.shape, range(read.dim() - _spatial_count(named, read), read.dim()))
            return {**known} | {name: rule(known[name], axis - read.dim(), named, 0) for axis, name in axes.items()}
        changed = [axis for axis in range(read.dim()) if output.shape[axis] != read.shape[axis]]
        count = read.dim() if "pad" in named else _spatial_count(named, read)
        axes, known = listing_axes(grid, read.shape, range(read.dim() - count, read.dim()))
        if "pad" in named:
            axes = {axis: name for axis, name in axes.items() if axis in changed}
        moved = {name: rule(known[name], axis - read.dim(), named, output.shape[axis]) for axis, name in axes.items()}
        return known | moved

    def _along(self, rule: _Rule | None, named: Mapping[str, Any], output: torch.Tensor, number: int) -> Grid:
        """Slicing, splitting, or selecting along one axis."""
        read: torch.Tensor = named["self"]
        axis = named["dimension" if "dimension" in named else "dim"] % read.dim()
        axes, known = listing_axes(self.grid(read), read.shape, range(read.dim()))
        if axis not in axes:
            return self.grid(read)
        rest = {name: cells for name, cells in known.items() if name != axes[axis]}
        if rule is None:
            return rest
        return known | {axes[axis]: rule(known[axes[axis]], number, named, output.shape[axis])}

    def _turned(self, read: torch.Tensor, changes: Mapping[int, Callable[[Cells], Cells]]) -> Grid:
        """Cells in another order along some axes."""
        known, axes = dict(self.grid(read)), whole_axes(self.grid(read), read.shape)
        named = [(axes.get(axis % read.dim()), change) for axis, change in changes.items()]
        return known | {name: change(known[name]) for name, change in named if name is not None}

    def _kept(self, grids: Sequence[Grid], output: torch.Tensor, *, mixes: bool) -> Grid:
        """The cells of the first tensor that is read, as of a residual stream; of concatenated tensors the mean.

        Of tensors that were computed from maps of different scales, as a decoder joins them, the finest decide.
        """
        found: dict[str, Cells] = {}
        for name in self._names:
            if not (told := [grid[name] for grid in grids if name in grid]):
                continue
            fitting = [cells for cells in told if cells.count in output.shape] or told
            alike = [cells for cells in fitting if (cells.count, cells.step) == (fitting[0].count, fitting[0].step)]
            finest = min(cells.coarsest for cells in alike)
            alike = [cells for cells in alike if cells.coarsest == finest]
            mean = sum((cells.first for cells in alike), Fraction(0)) / len(alike)
            joined = alike[0].beside(alike[1:], all_count=mixes)
            found[name] = replace(joined, first=mean) if mixes else joined
        return found


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors among arguments or results, also in lists of them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, torch.Tensor))


def _is_alike(returned: Any, read: torch.Tensor) -> bool:
    return isinstance(returned, torch.Tensor) and returned.shape == read.shape


_READ_BY_NAME = {*CLAMPING, *TURNING}
"""Operations whose rules read arguments, also where the shape stays the same."""

_JOINING = frozenset({"add", "sub", "mul", "maximum", "minimum"})
"""Elementwise operations of two tensors."""

_PRODUCTS = {"mm": "self", "bmm": "self", "addmm": "mat1", "baddbmm": "batch1"}
"""Matrix products, and their name for the left matrix."""


def _unmixed(grid: Grid, left: torch.Tensor) -> Grid:
    """The cells along axes that a product does not sum over: those of the left matrix' last axis are mixed.

    That axis lists channels, even as many as there are cells along an axis, where all cells are in the axes before it.
    """
    *before, last = left.shape
    all_cells = math.prod(cells.count for cells in grid.values())
    if last in before or (all_cells and math.prod(before) % all_cells == 0):
        return grid
    return {name: cells for name, cells in grid.items() if cells.count != last}


def _left(grid: Grid, moving: Sequence[torch.Tensor], output: torch.Tensor) -> Grid:
    """Without axes that a tensor of cells has and the output lacks: they were reduced, or an entry was selected."""
    stood = {size for tensor in moving for size in tensor.shape}
    return {name: cells for name, cells in grid.items() if cells.count not in stood or cells.count in output.shape}


_RESHAPING = {"view", "reshape", "_reshape_alias", "_unsafe_view", "unflatten", "flatten", "as_strided", "expand"}
"""Operations that may split or merge axes."""


def _named(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an operation by name, defaults filled in."""
    names, defaults = _schema(func)
    return {**defaults, **dict(zip(names, args, strict=False)), **kwargs}


@functools.cache
def _schema(func: Any) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """The argument names of an operation, and the default values."""
    known = func._schema.arguments
    defaults = {argument.name: argument.default_value for argument in known if argument.has_default_value()}
    return tuple(argument.name for argument in known), defaults


def _spatial_count(named: Mapping[str, Any], read: torch.Tensor) -> int:
    """How many of the last axes an operation works on."""
    weight = named.get("weight")
    if isinstance(weight, torch.Tensor):
        return weight.dim() - 2
    for key in ("kernel_size", "output_size"):
        if isinstance(named.get(key), (list, tuple)):
            return len(named[key])
    if "pad" in named or "padding" in named:
        return len(named.get("pad", named.get("padding"))) // 2
    return read.dim() - 2


def _of_axis(values: Any, axis: int, default: int) -> int:
    """The entry of an argument for an axis counted from the end; one number stands for all axes."""
    if isinstance(values, int):
        return values
    values = list(values or [default])
    return int(values[axis] if -axis <= len(values) else values[0])


def _convolved(cells: Cells, axis: int, named: Mapping[str, Any], count: int) -> Cells:
    """A convolution, or the reverse of one: Dumoulin and Visin, A guide to convolution arithmetic (2016)."""
    size, (pad, stride, dilation) = named["weight"].shape[axis], _geometry(axis, named)
    middle = _half(dilation * (size - 1) - 2 * pad)
    if named.get("transposed"):
        return cells.read(start=Fraction(-middle, stride), step=Fraction(1, stride), count=count)
    return cells.read(start=middle, step=stride, count=count)


def _pooled(cells: Cells, axis: int, named: Mapping[str, Any], count: int) -> Cells:
    size = _of_axis(named["kernel_size"], axis, 1)
    pad, stride, dilation = _geometry(axis, {**named, "stride": named.get("stride") or named["kernel_size"]})
    return cells.read(start=_half(dilation * (size - 1) - 2 * pad), step=stride, count=count)


def _half(cells: int) -> Fraction | int:
    """Half of a number, as an integer where possible, since fractions are slow."""
    return Fraction(cells, 2) if cells % 2 else cells // 2


def _geometry(axis: int, named: Mapping[str, Any]) -> tuple[int, int, int]:
    keys = (("padding", 0), ("stride", 1), ("dilation", 1))
    pad, stride, dilation = (_of_axis(named.get(key), axis, default) for key, default in keys)
    return pad, stride, dilation


def _resampled(cells: Cells, _axis: int, named: Mapping[str, Any], count: int) -> Cells:
    """Interpolation: the outer edges keep their places, or with `align_corners` the outer centres do."""
    if named.get("align_corners") and count > 1:
        return cells.read(start=0, step=Fraction(cells.count - 1, count - 1), count=count)
    ratio = Fraction(cells.count, max(count, 1))
    return cells.read(start=(ratio - 1) / 2, step=ratio, count=count)


def _padded(cells: Cells, axis: int, named: Mapping[str, Any], count: int) -> Cells:
    pads = named.get("pad", named.get("padding"))
    place = 2 * (-axis - 1)
    before = pads[place] if place < len(pads) else 0
    return cells.read(start=-before, step=1, count=count)


def _sliced(cells: Cells, _number: int, named: Mapping[str, Any], count: int) -> Cells:
    start = named.get("start") or 0
    return cells.read(start=start % cells.count if start < 0 else start, step=named.get("step") or 1, count=count)


def _split(cells: Cells, number: int, named: Mapping[str, Any], count: int) -> Cells:
    sizes = named.get("split_sizes", named.get("split_size"))
    before = sum(sizes[:number]) if isinstance(sizes, (list, tuple)) else number * sizes
    return cells.read(start=before, step=1, count=count)


def _unfolded(cells: Cells, _number: int, named: Mapping[str, Any], count: int) -> Cells:
    return cells.read(start=Fraction(named["size"] - 1, 2), step=named["step"], count=count)


def _columns(cells: Cells, axis: int, named: Mapping[str, Any], _count: int) -> Cells:
    """`im2col`: windows as columns, of which there are as many as a convolution makes cells."""
    size, (pad, stride, dilation) = _of_axis(named["kernel_size"], axis, 1), _geometry(axis, named)
    count = (cells.count + 2 * pad - dilation * (size - 1) - 1) // stride + 1
    return cells.read(start=_half(dilation * (size - 1) - 2 * pad), step=stride, count=count)


_SPATIAL: dict[str, _Rule] = {
    **dict.fromkeys(("convolution", "conv_depthwise3d", "_conv_depthwise2d", "cudnn_convolution"), _convolved),
    **{
        f"{kind}_pool{n}d{tail}": _pooled
        for kind in ("max", "avg", "lp")
        for n in (1, 2, 3)
        for tail in ("", "_with_indices")
    },
    **{
        f"{front}adaptive_{kind}_pool{n}d": _resampled
        for front in ("", "_")
        for kind in ("avg", "max")
        for n in (1, 2, 3)
    },
    **{f"upsample_{kind}": _resampled for kind in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")},
    **{f"upsample_nearest{exact}{n}d": _resampled for exact in ("", "_exact") for n in (1, 2, 3)},
    **{f"_upsample_{kind}": _resampled for kind in ("bilinear2d_aa", "bicubic2d_aa")},
    **{f"_upsample_nearest_exact{n}d": _resampled for n in (1, 2, 3)},
    **{f"{kind}_pad{n}d": _padded for kind in ("reflection", "replication") for n in (1, 2, 3)},
    "constant_pad_nd": _padded,
    "pixel_shuffle": _resampled,
    "pixel_unshuffle": _resampled,
    "im2col": _columns,
}
"""Operations on the last axes."""

_ALONG: dict[str, _Rule | None] = {
    "slice": _sliced,
    "split": _split,
    "split_with_sizes": _split,
    "unsafe_split": _split,
    "unfold": _unfolded,
    "select": None,
}
"""Operations along one axis; None where they remove it."""

_TRANSFORMS = frozenset({"_fft_r2c", "_fft_c2c", "_fft_c2r"})
"""Fourier transforms: frequencies lie at no place of the input."""

_REVERSING: dict[str, Callable[[Mapping[str, Any]], Sequence[int]]] = {
    "flip": lambda named: named["dims"],
    "rot90": lambda named: ([], named["dims"][1:], named["dims"], named["dims"][:1])[named["k"] % 4],
}
"""Operations that reverse axes, and the axes that they do; the rest of what a quarter turn does is seen by sizes."""

_REORDERING: dict[str, Callable[[Mapping[str, Any]], Iterable[int]]] = {
    **dict.fromkeys(("index_select", "gather", "sort"), lambda named: [named["dim"]]),
    "index": lambda named: [axis for axis, index in enumerate(named["indices"]) if index is not None],
    **dict.fromkeys(("grid_sampler_2d", "cudnn_grid_sampler"), lambda _: (-2, -1)),
    "grid_sampler_3d": lambda _: (-3, -2, -1),
}
"""Operations that bring cells into an order that is not followed, and the axes along which they do."""


def _rolling(self: torch.Tensor, shifts: Sequence[int], dims: Sequence[int]) -> dict[int, Any]:
    """What `roll` does along each axis; without axes it rolls the values of all as one row."""
    if not dims:
        return dict.fromkeys(range(self.dim()), Cells.reordered)
    return {axis: functools.partial(Cells.rolled, cells=shift) for axis, shift in zip(dims, shifts, strict=True)}


_CHANGING = {*_SPATIAL, *_ALONG, *_PRODUCTS, *_TRANSFORMS, *_REVERSING, *_REORDERING}
_MOVING = frozenset({*_CHANGING, "roll", "cat", "stack"})
"""Operations that may move cells even if the shape stays the same."""
