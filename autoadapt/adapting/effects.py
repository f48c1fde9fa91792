"""Effects: what each operation makes of a tensor: its dims, how it lies in memory, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from typing_extensions import assert_never

from autoadapt.adapting.operations import (
    Cast,
    Channels,
    Copy,
    Dims,
    DropPrefix,
    Hide,
    Lead,
    Mean,
    Native,
    Ones,
    Operation,
    Pad,
    Pool,
    Project,
    Rearrange,
    Recover,
    Remask,
    Renormalize,
    Resample,
    Resize,
    ResizeTokens,
    Restore,
    Take,
    Thin,
    shown_sizes,
    text,
)
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import TensorSpec, cells_in, in_order
from autoadapt.errors import Mismatch, PlanError

__all__ = ["after", "axis_groups", "coarse_step", "multiply_adds", "stays_contiguous"]


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
        case Remask(dtype=dtype, dims=dims):
            return spec.with_dims(dims).model_copy(update={"dtype": dtype, "same_as": ""})
        case Recover(dtype=dtype, points_axis=axis):
            return TensorSpec(dtype=dtype, dims=(spec.dims[0], spec.dims[axis]), role="index")
        case Thin(axis=axis, source=source, count=count):
            if spec.dims[axis] != source:
                raise _refused(operation, spec, f"{source} points on axis {axis}")
            dims = (*spec.dims[:axis], Dim(count), *spec.dims[axis + 1 :])
            return spec.with_dims(dims).model_copy(update={"same_as": ""})
        case _:
            if not spec.is_floating and not isinstance(operation, (DropPrefix, Rearrange)):
                raise _refused(operation, spec, "floating-point values")
            moves = isinstance(operation, (Take, Mean, Pool, Resize, Resample, ResizeTokens))
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
                return cells_in(order), 0
            return ("rows", 0) if any(len(names) > 1 for names in left) else spec.order
        case Mean() | Take():
            return "rows", 0
        case ResizeTokens(order=order) if order:
            sides = in_order("THW" if len(order) == 3 else "HW", spec.cells)
            return cells_in([sides[side] for side in order]), 0
        case _:
            return spec.order


def _dims_after(operation: Operation, spec: TensorSpec) -> Dims:
    dims = spec.dims
    match operation:
        case DropPrefix(axis=axis, count=count):
            return (*dims[:axis], dims[axis] - count, *dims[axis + 1 :])
        case Take(axis=axis):
            return (*dims[:axis], *dims[axis + 1 :])
        case Rearrange():
            return _rearranged(operation, spec)
        case Mean(axes=axes):
            return tuple(dim for axis, dim in enumerate(dims) if axis not in axes)
        case Pool(kernel=kernel):
            _check_spatial(operation, spec, len(kernel))
            return dims[:2] + tuple(dim.ceildiv(size) for dim, size in zip(dims[2:], kernel, strict=True))
        case Resize(dims=sizes) | Resample(dims=sizes) | Pad(dims=sizes):
            _check_spatial(operation, spec, len(sizes))
            return dims[:2] + sizes
        case ResizeTokens(prefix=prefix, source=grid, dims=sizes):
            if len(dims) != 3 or dims[1] != math.prod(grid, start=Dim(1)) + prefix:
                raise _refused(
                    operation, spec, f"{prefix} tokens before a grid of {shown_sizes(grid)}, and channels last"
                )
            return (dims[0], math.prod(sizes, start=Dim(1)) + prefix, dims[2])
        case Lead():
            return (dims[0], dims[1] + 1, *dims[2:])
        case Project(source=source, target=target) | Channels(source=source, target=target):
            axis = len(dims) - 1 if isinstance(operation, Project) and operation.form != "conv" else 1
            groups = operation.groups if isinstance(operation, Project) else 1
            if len(dims) <= axis or dims[axis] != source * groups:
                raise _refused(operation, spec, f"{source * groups} channels on axis {axis}")
            return (*dims[:axis], Dim(target * groups), *dims[axis + 1 :])
        case Ones(axis=axis):
            return (*dims[:axis], dims[axis] + 1, *dims[axis + 1 :])
        case Renormalize(given=given, wanted=wanted):
            channels = dims[1].constant if len(dims) > 1 else None
            turned = given.order != wanted.order
            if channels is None or (turned and channels != 3) or {given.channels, wanted.channels} - {None, channels}:
                raise _refused(operation, spec, "as many channels on axis 1 as the statistics tell of")
            return dims
        case Cast() | Copy() | Hide() | Native() | Recover() | Remask() | Restore() | Thin():
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


def multiply_adds(operation: Operation, spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    """Multiplications with addition that an operation takes at given sizes of the input axes."""
    made = math.prod(after(operation, spec).shape(sizes))
    match operation:
        case Project(source=source):
            return made * source
        case Renormalize():
            return made
        case Channels(stem="", source=source):
            return made * source
        case Pool() | Mean():
            return math.prod(spec.shape(sizes))
        case Resize(dims=dims):
            return made << len(dims)  # linear interpolation reads two cells a side
        case Resample() if operation.picks:
            return 0
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
        case DropPrefix(after=after):
            return before and after > 0
        case Take():
            return False
        case Rearrange(pattern=pattern):
            left, right = ([name for names in side for name in names] for side in axis_groups(pattern))
            return before and left == right
        case Channels(stem=""):
            return True
        case Project(form="conv") | Pool() | Resize() | Cast() | Copy() | Channels() | Native():
            return before
        case _:
            return True


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
