"""Operations: the closed set of things an adapter may do, as data, and what each does to dims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import assert_never

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import TensorSpec
from autoadapt.errors import Mismatch, PlanError

__all__ = [
    "Cast",
    "Channels",
    "Copy",
    "DropPrefix",
    "Mean",
    "Operation",
    "Pool",
    "Project",
    "Rearrange",
    "Recover",
    "Resample",
    "Resize",
    "ResizeTokens",
    "Thin",
    "after",
    "axis_groups",
    "coarse_step",
    "multiply_adds",
    "parameters",
    "stays_contiguous",
    "text",
]

Dims: TypeAlias = tuple[Dim, ...]
Thinning: TypeAlias = Literal["farthest", "first", "even", "random", "repeat"]
"""How points are chosen: far from each other, the first, at even steps, at random, or all of them again and again."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class DropPrefix(_Frozen):
    """Leave the first entries of an axis out, such as class and register tokens; or the last ones."""

    op: Literal["drop"] = "drop"
    axis: int
    count: int
    at_end: bool = False


class Rearrange(_Frozen):
    """Split, permute and merge axes, in einops notation."""

    op: Literal["rearrange"] = "rearrange"
    pattern: str
    sizes: dict[str, Dim] = Field(default_factory=dict)
    """Sizes of the names that a merged axis is split into."""


class Mean(_Frozen):
    """Average over axes, which go away."""

    op: Literal["mean"] = "mean"
    axes: tuple[int, ...]


class Pool(_Frozen):
    """Average over cells of a fixed size, the last cell of an axis cut short; `[B, C, *spatial]`."""

    op: Literal["pool"] = "pool"
    kernel: tuple[int, ...]
    """One size for each spatial axis."""


class Resize(_Frozen):
    """Linear interpolation of the spatial axes to exact sizes; `[B, C, *spatial]`."""

    op: Literal["resize"] = "resize"
    dims: Dims
    """One size for each spatial axis."""


class Resample(_Frozen):
    """Spatial axes read at other centres, `[B, C, *spatial]`: cell j lies at `first + j*step` of the cells there are.

    Linear interpolation; where the step is longer than a cell, a mean over a triangle as wide. Beyond the border the
    last cell counts. Whole numbers of cells are exact.
    """

    op: Literal["resample"] = "resample"
    first: tuple[float, ...]
    """Where the first cell lies, in cells of the source, for each spatial axis."""
    step: tuple[float, ...]
    dims: Dims
    """How many cells there are, for each spatial axis."""


class ResizeTokens(_Frozen):
    """Linear interpolation of tokens on their grid, `[B, prefix + cells, C]`; the leading tokens stay as they are."""

    op: Literal["resize tokens"] = "resize tokens"
    prefix: int
    source: Dims
    """The grid, one size for each side."""
    dims: Dims
    """The grid that is wanted."""
    kernel: tuple[int, ...] = ()
    """Cells a side that are averaged before, where there are many more than are wanted."""


class Project(_Frozen):
    """A learned map of channels: a 1x1 convolution on axis 1, or a linear layer on the last axis."""

    op: Literal["project"] = "project"
    form: Literal["conv", "linear"]
    source: int
    target: int
    bias: bool = True


class Cast(_Frozen):
    """Another dtype."""

    op: Literal["cast"] = "cast"
    dtype: str


class Copy(_Frozen):
    """A tensor of its own, since what comes next writes to it."""

    op: Literal["copy"] = "copy"


class Channels(_Frozen):
    """Read another number of image channels: the weights of the first convolution are spread or summed."""

    op: Literal["channels"] = "channels"
    source: int
    """Channels that are given."""
    target: int
    """Channels that the module was made for."""
    stem: str
    """Path of the convolution."""


class Recover(_Frozen):
    """For each point its place in an input, where points stand bit for bit: `[B, M, K] -> [B, M]`."""

    op: Literal["recover"] = "recover"
    values: str
    """Path of the input, `[B, N, >= K]`, or `[B, >= K, N]` where its axis 2 lists points."""
    dtype: str
    values_axis: Literal[1, 2] = 1
    """Which axis of the input lists points."""
    points_axis: Literal[1, 2] = 1
    """Which axis of the coordinates lists points."""


class Thin(_Frozen):
    """Take some points of a set, by one choice for every leaf that lies on it; with `repeat`, some of them twice."""

    op: Literal["thin"] = "thin"
    axis: int
    """Which axis of the leaf lists points."""
    source: int
    count: int
    how: Thinning
    points: str
    """Path of the coordinates among the new module's outputs, `[B, N, K]`, or of any other leaf of the set."""
    points_axis: int = 1
    """Which axis of that leaf lists points."""
    seed: int = 0


Operation: TypeAlias = Annotated[
    DropPrefix
    | Rearrange
    | Mean
    | Pool
    | Resize
    | Resample
    | ResizeTokens
    | Project
    | Cast
    | Copy
    | Channels
    | Recover
    | Thin,
    Field(discriminator="op"),
]


def after(operation: Operation, spec: TensorSpec) -> TensorSpec:
    """What comes out of an operation when a tensor of a spec goes in.

    Raises:
        PlanError: The operation does not fit the tensor.
    """
    match operation:
        case Cast(dtype=dtype):
            return spec.model_copy(update={"dtype": dtype, "same_as": ""})
        case Copy():
            return spec.model_copy(update={"same_as": ""})
        case Recover(dtype=dtype, points_axis=axis):
            return TensorSpec(dtype=dtype, dims=(spec.dims[0], spec.dims[axis]), role="index")
        case Thin(axis=axis, source=source, count=count):
            if spec.dims[axis] != source:
                raise _refused(operation, spec, f"{source} points on axis {axis}")
            dims = (*spec.dims[:axis], Dim(count), *spec.dims[axis + 1 :])
            return spec.model_copy(update={"dims": dims, "same_as": ""})
        case _:
            if not spec.is_floating and not isinstance(operation, (DropPrefix, Rearrange)):
                raise _refused(operation, spec, "floating-point values")
            moves = isinstance(operation, (Mean, Pool, Resize, Resample, ResizeTokens))
            centres = () if moves else spec.centres
            cells, trailing = _order_after(operation, spec)
            update = {"same_as": "", "cells": cells, "trailing": trailing, "centres": centres}
            return spec.model_copy(update={"dims": _dims_after(operation, spec), **update})


def _order_after(operation: Operation, spec: TensorSpec) -> tuple[str, int]:
    """How cells stand among tokens after an operation: as they are split and merged, else as before."""
    match operation:
        case DropPrefix(count=count, at_end=True):
            return spec.cells, max(spec.trailing - count, 0)
        case Rearrange(pattern=pattern, sizes=sizes):
            left, right = axis_groups(pattern)
            known = sizes | {names[0]: dim for names, dim in zip(left, spec.dims, strict=False) if len(names) == 1}
            merged = [[known[name] for name in names if known[name].axes - {"B"}] for names in right]
            order = next(([min(dim.axes) for dim in dims] for dims in merged if len(dims) > 1), None)
            if order is not None:
                return ("rows" if order == sorted(order) else "columns"), 0
            return ("rows", 0) if any(len(names) > 1 for names in left) else spec.order
        case Mean():
            return "rows", 0
        case _:
            return spec.order


def _dims_after(operation: Operation, spec: TensorSpec) -> Dims:
    dims = spec.dims
    match operation:
        case DropPrefix(axis=axis, count=count):
            return (*dims[:axis], dims[axis] - count, *dims[axis + 1 :])
        case Rearrange():
            return _rearranged(operation, spec)
        case Mean(axes=axes):
            return tuple(dim for axis, dim in enumerate(dims) if axis not in axes)
        case Pool(kernel=kernel):
            _check_spatial(operation, spec, len(kernel))
            return dims[:2] + tuple(dim.ceildiv(size) for dim, size in zip(dims[2:], kernel, strict=True))
        case Resize(dims=sizes) | Resample(dims=sizes):
            _check_spatial(operation, spec, len(sizes))
            return dims[:2] + sizes
        case ResizeTokens(prefix=prefix, source=grid, dims=sizes):
            if len(dims) != 3 or dims[1] != math.prod(grid, start=Dim(1)) + prefix:
                raise _refused(operation, spec, f"{prefix} tokens before a grid of {_by(grid)}, and channels last")
            return (dims[0], math.prod(sizes, start=Dim(1)) + prefix, dims[2])
        case Project(form=form, source=source, target=target):
            axis = 1 if form == "conv" else len(dims) - 1
            if dims[axis] != source:
                raise _refused(operation, spec, f"{source} channels on axis {axis}")
            return (*dims[:axis], Dim(target), *dims[axis + 1 :])
        case Channels(target=target):
            return (dims[0], Dim(target), *dims[2:])
        case Cast() | Copy() | Recover() | Thin():
            return dims
        case _:
            assert_never(operation)


def _check_spatial(operation: Operation, spec: TensorSpec, count: int) -> None:
    if len(spec.dims) != count + 2:
        raise _refused(operation, spec, f"a batch axis, a channel axis and {count} spatial axes")


def _refused(operation: Operation, spec: TensorSpec, expected: str) -> PlanError:
    fault = Mismatch(text(operation), expected, str(spec), "let autoadapt.plan derive the chain")
    return PlanError(f"`{text(operation)}` does not fit its input", [fault])


def axis_groups(pattern: str) -> tuple[list[list[str]], list[list[str]]]:
    """Both sides of an einops pattern, each axis as the list of its names; `1` is a unit axis without name.

    Example:
        >>> axis_groups("b (h w) c -> b c h w")
        ([['b'], ['h', 'w'], ['c']], [['b'], ['c'], ['h'], ['w']])
    """
    left, _, right = pattern.partition("->")
    return _groups(left), _groups(right)


def _groups(side: str) -> list[list[str]]:
    groups: list[list[str]] = []
    inside = False
    for token in side.replace("(", " ( ").replace(")", " ) ").split():
        if token == "(":
            groups.append([])
        elif token != ")":
            names = [] if token == "1" else [token]
            if inside:
                groups[-1] += names
            else:
                groups.append(names)
        inside = token == "(" or (inside and token != ")")
    return groups


def _rearranged(operation: Rearrange, spec: TensorSpec) -> Dims:
    left, right = axis_groups(operation.pattern)
    if len(left) != len(spec.dims):
        raise _refused(operation, spec, f"{len(left)} axes")
    known = dict(operation.sizes)
    for names, dim in zip(left, spec.dims, strict=True):
        if len(names) == 1:
            known[names[0]] = dim
        elif _product(names, known) != dim:
            raise _refused(operation, spec, f"an axis of size {_product(names, known)}")
    return tuple(_product(names, known) for names in right)


def _product(names: Sequence[str], known: Mapping[str, Dim]) -> Dim:
    return math.prod((known[name] for name in names), start=Dim(1))


def parameters(operation: Operation) -> int:
    """How many parameters an operation has."""
    match operation:
        case Project(source=source, target=target, bias=bias):
            return source * target + (target if bias else 0)
        case _:
            return 0


def coarse_step(dim: Dim) -> tuple[str, int] | None:
    """The axis and the step of a size that goes up in steps of 128 or more; None for any other.

    Windows and images of one size make such steps. Tracing goes on for good when it has to prove things about the maps
    within them (torch 2.14, MaxViT), so that it gets them as numbers.

    Example:
        >>> coarse_step(Dim.axis("H").ceildiv(224) * 224), coarse_step(Dim.axis("H").ceildiv(32) * 32)
        (('H', 224), None)
    """
    if len(dim.axes) != 1:
        return None
    (axis,) = dim.axes
    step = int(dim.evaluate({axis: 1}))
    return (axis, step) if step >= _COARSE and dim == Dim.axis(axis).ceildiv(step) * step else None


_COARSE = 128


def multiply_adds(operation: Operation, spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    """Multiplications with addition that an operation takes at given sizes of the input axes."""
    made = math.prod(after(operation, spec).shape(sizes))
    match operation:
        case Project(source=source):
            return made * source
        case Pool() | Mean():
            return math.prod(spec.shape(sizes))
        case Resize(dims=dims):
            return made << len(dims)  # linear interpolation reads two cells a side
        case Resample(dims=dims):
            cells = zip(spec.shape(sizes)[2:], (int(dim.evaluate(sizes)) for dim in dims), strict=True)
            return _separable(math.prod(spec.shape(sizes)[:2]), list(cells))
        case ResizeTokens(dims=dims, kernel=kernel):
            return (made << len(dims)) + (math.prod(spec.shape(sizes)) if kernel else 0)
        case _:
            return 0


def _separable(maps: int, cells: Sequence[tuple[int, int]]) -> int:
    """Multiply-adds of one matrix product an axis, one after the other."""
    total, left = 0, [before for before, _ in cells]
    for axis, (before, then) in enumerate(cells):
        left[axis] = then
        total += maps * math.prod(left) * before
    return total


def stays_contiguous(operation: Operation, before: bool) -> bool:
    """Whether what comes out lies in memory in the order of its axes.

    Convolutions, poolings and interpolation hand on the order of what they read (channels last stays channels last).

    Args:
        operation: An operation.
        before: Whether what goes in does.
    """
    match operation:
        case DropPrefix():
            return False
        case Rearrange(pattern=pattern):
            left, right = ([name for names in side for name in names] for side in axis_groups(pattern))
            return before and left == right
        case Project(form="conv") | Pool() | Resize() | Cast() | Copy() | Channels():
            return before
        case _:
            return True


def text(operation: Operation) -> str:
    """An operation in a plan's table.

    Example:
        >>> text(Project(form="conv", source=384, target=64)), text(DropPrefix(axis=1, count=1))
        ('384->64', 'drop 1')
    """
    match operation:
        case DropPrefix(count=count, at_end=at_end):
            return f"drop last {count}" if at_end else f"drop {count}"
        case Rearrange(pattern=pattern):
            return pattern
        case Mean(axes=axes):
            return f"mean over {', '.join(map(str, axes))}"
        case Pool(kernel=kernel):
            return f"pool {_by(kernel)}"
        case Resize(dims=dims):
            return f"resize to {_by(dims)}"
        case Resample(first=first, step=step, dims=dims):
            centres = _by([f"{start:g} + {by:g} j" for start, by in zip(first, step, strict=True)])
            return f"resample to {_by(dims)} at {centres}"
        case ResizeTokens(dims=dims):
            return f"resize tokens to {_by(dims)}"
        case Project(source=source, target=target):
            return f"{source}->{target}"
        case Cast(dtype=dtype):
            return f"to {dtype}"
        case Copy():
            return "copy"
        case Channels(source=source, target=target, stem=stem):
            return f"{stem} reads {source} channels, not {target}"
        case Recover(values=values):
            return f"find in {values}"
        case Thin(source=source, count=count, how=how):
            return f"{source} points, {how} {count}"
        case _:
            assert_never(operation)


def _by(sizes: Sequence[object]) -> str:
    return str(sizes[0]) if len(set(map(str, sizes))) == 1 else " x ".join(map(str, sizes))
