"""A conversion: how a tensor of one shape serves a place of another.

skip       not at all
error      not at all, and nothing else is loaded either
slice      the rows that are in both; what counts key points row by row, the rest from the first on
blocks     the same, where things have several rows: all of one kind, then all of the next
groups     the same, where things have several rows: all of one thing, then all of the next
inflate    more input channels: repeated and rescaled; a kernel with a time axis: its mean, spread over it
centre     a kernel with a time axis: in its middle
sum        one input channel: the sum over the old ones
resample   tables of positions: bicubic on their grid, class tokens kept; kernels of patches: by the pseudo-inverse
permute    the same axes in another order, where the shapes allow exactly one; a linear layer and a 1x1 convolution
linear     tables of tokens in time, kernels with a time axis: linear along it
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from autoadapt.errors import Mismatch, TransferError, nearest
from autoadapt.weights.keeping import Kept
from autoadapt.weights.patterns import Pattern, pattern_text
from autoadapt.weights.resampling import Grid, find_grid, fit_grid, names_grid, over_time, resampled, resized_patches
from autoadapt.weights.slicing import (
    Axis,
    axis_changes,
    could_be_blocks,
    is_single_cell,
    permutation,
    ranges,
    slice_axes,
)
from autoadapt.weights.tensor_specs import Spec, shape_text
from autoadapt.weights.widths import Widths

Policy: TypeAlias = Literal[
    "skip", "error", "slice", "blocks", "groups", "inflate", "centre", "sum", "resample", "linear", "permute"
]
Shapes: TypeAlias = "str | Mapping[Pattern, str]"
POLICIES: tuple[str, ...] = get_args(Policy)
_TIMED = {"inflate": "spread", "centre": "centre", "linear": "linear"}
_FLOATS = ("float", "bfloat")
_MOST_CELLS = 64 * 64  # of a patch: the matrix that resizes one has as many rows
SLICES = ("slice", "blocks", "groups")


@dataclass(frozen=True)
class Wish:
    """What the caller wants done with a tensor whose shape differs.

    Args:
        policy: One of `POLICIES`.
        kept: Which old row each new one is.
        grid: How its tokens lie.
    """

    policy: str = "skip"
    kept: Kept | None = None
    grid: Grid | None = None


@dataclass(frozen=True)
class Conversion:
    """One planned conversion.

    Args:
        policy: How.
        region: The block of the target that is written, or how many rows of each axis are.
        how: The words for it.
        rows: The rows of each axis that differs, where they are not the first ones.
        axis: The input axis, or that of time.
        grid: How tokens lie.
        kept: Whether the caller said which rows.
        order: Of the old axes.
        unsure: Whether it takes the first rows of an axis that could hold blocks, which nothing tells.
    """

    policy: str
    region: tuple[int, ...]
    how: str
    rows: tuple[Axis, ...] = ()
    axis: int = 1
    grid: Grid | None = None
    kept: bool = False
    order: tuple[int, ...] = ()
    unsure: bool = False


def check_policies(shapes: Shapes) -> dict[Pattern, str]:
    """The policies by pattern; a single one is for everything.

    Raises:
        TransferError: If a policy is unknown.
    """
    by_pattern: dict[Pattern, str] = {"*": shapes} if isinstance(shapes, str) else dict(shapes)
    faults = [
        Mismatch(
            f"shapes, {pattern_text(pattern)}",
            f"one of {', '.join(POLICIES)}",
            repr(policy),
            f'shapes={{"{pattern_text(pattern)}": "{(nearest(str(policy), POLICIES) or ["skip"])[0]}"}}',
        )
        for pattern, policy in by_pattern.items()
        if policy not in POLICIES
    ]
    if faults:
        raise TransferError("unknown shape policy", faults)
    return by_pattern


def plan(
    wish: Wish,
    source: Spec,
    target: Spec,
    axes: Sequence[str],
    groups: int = 1,
    widths: Widths = Widths(),  # noqa: B008 - frozen
    *,
    patches: bool = False,
) -> Conversion | str:
    """Plan a conversion, or say why there is none.

    Args:
        wish: What is wanted.
        source: Facts of the old tensor.
        target: Facts of the new one.
        axes: What each axis of the new one is called.
        groups: Of a convolution.
        widths: What the layers of the model yield, before and after.
        patches: Whether it is the kernel of a convolution whose stride is its size.

    Example:
        >>> old, new = Spec("conv1.weight", (64, 3, 7, 7)), Spec("conv1.weight", (64, 1, 7, 7))
        >>> plan(Wish("sum"), old, new, ("output", "input", "height", "width")).how
        'sum of 3 input channels'
    """
    old, new, policy = source.shape, target.shape, wish.policy
    reason = axis_changes(old, new, axes)
    if policy in ("skip", "error"):
        return reason
    if policy in SLICES:
        found = _slice(old, new, axes, wish, widths)
    elif policy == "resample":
        found = _resample(source, target, axes, wish.grid, patches)
    else:
        found = _planned(wish, source, new, axes, groups)
    if isinstance(found, Conversion):
        return found
    return f"{reason}; {found or f'{policy} does not apply'}"


def _planned(wish: Wish, source: Spec, new: tuple[int, ...], axes: Sequence[str], groups: int) -> Conversion | str:
    old, policy = source.shape, wish.policy
    if policy == "permute" and is_single_cell(old, new, axes):
        how = f"permute: a {'linear layer' if len(old) == 2 else 'convolution of single cells'}, axis by axis"
        return Conversion(policy, new, how)
    if policy == "permute":
        order = permutation(old, new)
        how = f"permute({', '.join(map(str, order))})"
        return Conversion(policy, new, how, order=tuple(order)) if order else "no single order of its axes"
    if not source.dtype.startswith(_FLOATS):
        return ""
    match policy:
        case "inflate" | "sum":
            return _over_time(policy, old, new, axes) or _over_channels(policy, old, new, axes, groups)
        case "centre":
            return _over_time(policy, old, new, axes)
        case "linear":
            return _over_time(policy, old, new, axes) or _table_over_time(old, new, axes)
    return ""


def _slice(
    old: tuple[int, ...], new: tuple[int, ...], axes: Sequence[str], wish: Wish, widths: Widths
) -> Conversion | str:
    if len(old) != len(new):
        return ""
    rows = slice_axes(old, new, axes, wish.policy, wish.kept, widths)
    if isinstance(rows, str):
        return rows
    how = f"{wish.policy}: {axis_changes(old, new, axes)}"
    sizes = {axis.axis: len(axis.old) for axis in rows}
    region = tuple(sizes.get(axis, size) for axis, size in enumerate(new))
    if all(axis.leading for axis in rows):
        counted = [(old[axis.axis], new[axis.axis]) for axis in rows if axes[axis.axis] == "output"]
        told = wish.kept is not None or wish.policy != "slice"
        unsure = not told and any(could_be_blocks(*sizes, widths) for sizes in counted)
        return Conversion(wish.policy, region, how, kept=wish.kept is not None, unsure=unsure)
    taken = " and ".join(f"rows {ranges(axis.old)}" for axis in rows)
    return Conversion(wish.policy, region, f"{how}, {taken}", rows, kept=wish.kept is not None)


def _over_channels(
    policy: str, old: tuple[int, ...], new: tuple[int, ...], axes: Sequence[str], groups: int
) -> Conversion | str:
    """More or fewer input channels, of a convolution or a linear layer."""
    if "input" not in axes or len(old) != len(new):
        return ""
    at = list(axes).index("input")
    if _differing(old, new) != [at]:
        return ""
    if groups > 1:
        return f"{policy} does not apply to a convolution of {groups} groups"
    if policy == "inflate" and new[at] > old[at]:
        how = f"inflate: {old[at]} input channels repeated to {new[at]}, times {old[at]}/{new[at]}"
        return Conversion(policy, new, how, axis=at)
    if policy == "sum" and new[at] == 1:
        return Conversion(policy, new, f"sum of {old[at]} input channels", axis=at)
    return ""


def _over_time(policy: str, old: tuple[int, ...], new: tuple[int, ...], axes: Sequence[str]) -> Conversion | str:
    """A kernel whose time axis is new or of another length."""
    if "depth" not in axes or policy == "sum":
        return ""
    at = list(axes).index("depth")
    if len(old) == len(new) - 1 and (*new[:at], *new[at + 1 :]) == old:
        words = {"inflate": "spread over", "centre": "in the middle of"}
        how = f"{policy}: {words[policy]} {new[at]} time steps" if policy in words else ""
        return Conversion(_TIMED[policy], new, how, axis=at) if how else ""
    if len(old) != len(new) or _differing(old, new) != [at]:
        return ""
    words = {"inflate": "mean over", "centre": "middle of", "linear": "along"}
    return Conversion(_TIMED[policy], new, f"{policy}: {words[policy]} {old[at]} time steps, now {new[at]}", axis=at)


def _table_over_time(old: tuple[int, ...], new: tuple[int, ...], axes: Sequence[str]) -> Conversion | str:
    if len(old) not in (2, 3) or len(old) != len(new) or "input" in axes or _differing(old, new) != [len(old) - 2]:
        return ""
    at = len(old) - 2
    return Conversion("linear", new, f"linear: {old[at]} -> {new[at]} steps", axis=at)


def _resample(source: Spec, target: Spec, axes: Sequence[str], told: Grid | None, patches: bool) -> Conversion | str:
    old, new = source.shape, target.shape
    if not source.dtype.startswith(_FLOATS):
        return ""
    if told is not None and (fault := fit_grid(told, old, new)):
        return fault
    grid = told or find_grid(old, new)
    if grid is None or ("input" in axes and _differing(old, new)[0] < 2):
        return ""
    if "height" in axes:
        how = f"resample: patches of {shape_text(grid.old)} -> {shape_text(grid.new)}, by the pseudo-inverse"
        small = max(math.prod(grid.old), math.prod(grid.new)) <= _MOST_CELLS
        return Conversion("patches", new, how, grid=grid) if patches and small else ""
    if told is None and not names_grid(target.name, new, grid):
        tell = f'grid={{"{target.name}": (old, new, tokens)}} tells one'
        return f"not known by its name as a table of positions on a grid; {tell}"
    return Conversion("resample", new, str(grid), grid=grid)


def _differing(old: tuple[int, ...], new: tuple[int, ...]) -> list[int]:
    return [axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]


def convert(tensor: Tensor, conversion: Conversion, shape: tuple[int, ...]) -> Tensor:
    """Carry out a planned conversion.

    Returns:
        Values for the leading block `conversion.region` of the target, or for the new rows of `conversion.rows`.
    """
    at = conversion.axis
    match conversion.policy:
        case "slice" | "blocks" | "groups":
            for axis in conversion.rows:
                tensor = tensor.index_select(axis.axis, torch.tensor(axis.old, dtype=torch.long))
            return tensor if conversion.rows else tensor[tuple(slice(size) for size in conversion.region)]
        case "spread":
            still = tensor.sum(at, keepdim=True) if tensor.ndim == len(shape) else tensor.unsqueeze(at)
            return still.expand(shape) / shape[at]
        case "inflate":
            times = -(-shape[at] // tensor.shape[at])
            repeated = torch.cat([tensor] * times, at).narrow(at, 0, shape[at])
            return repeated * (tensor.shape[at] / shape[at])
        case "centre":
            return _centred(tensor if tensor.ndim == len(shape) else tensor.unsqueeze(at), shape, at)
        case "linear":
            resized = over_time(tensor, shape[at], at)
            return resized * (tensor.shape[at] / shape[at]) if tensor.ndim > 3 else resized
        case "permute":
            return tensor.permute(conversion.order).contiguous() if conversion.order else tensor.reshape(shape)
        case "sum":
            return tensor.sum(at, keepdim=True)
        case "resample":
            assert conversion.grid is not None
            return resampled(tensor, shape, conversion.grid)
        case "patches":
            return resized_patches(tensor, (shape[2], shape[3]))
    raise AssertionError(conversion.policy)


def _centred(tensor: Tensor, shape: tuple[int, ...], at: int) -> Tensor:
    """The middle of a time axis in the middle of another, with zeros around."""
    old, new = tensor.shape[at], shape[at]
    size = min(old, new)
    whole = tensor.new_zeros(shape)
    whole.narrow(at, (new - size) // 2, size).copy_(tensor.narrow(at, (old - size) // 2, size))
    return whole
