"""A conversion: how a tensor of one shape serves a place of another.

skip       not at all
error      not at all, and nothing else is loaded either
slice      the common leading block; the rest keeps its values
inflate    more input channels: repeated and rescaled; a kernel with a time axis: spread over it
sum        one input channel: the sum over the old ones
resample   position embeddings on a square grid: bicubic, class tokens kept
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from autoadapt.errors import Mismatch, TransferError, nearest
from autoadapt.weights.patterns import Pattern, pattern_text
from autoadapt.weights.tensor_specs import Spec, shape_text

__all__ = ["POLICIES", "Conversion", "Policy", "Shapes", "axis_changes", "check_policies", "convert", "plan"]

Policy: TypeAlias = Literal["skip", "error", "slice", "inflate", "sum", "resample"]
Shapes: TypeAlias = "str | Mapping[Pattern, str]"
POLICIES: tuple[str, ...] = get_args(Policy)

_TOKENS = (0, 1, 2, 5)  # class, distillation and register tokens in front of a grid
# Counts that tell what an axis is. What it looks like, said as a help and never relied upon.
_KEY_POINTS = ((17, 14), (14, 17), (17, 16), (16, 17), (17, 133), (133, 17), (16, 14), (14, 16))
_CLASSES = {1000: "ImageNet-1k", 21841: "ImageNet-22k", 21843: "ImageNet-21k", 80: "COCO", 91: "COCO",
            20: "VOC", 21: "VOC", 19: "Cityscapes", 150: "ADE20K", 365: "Objects365", 400: "Kinetics"}  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """One planned conversion: the policy, the block of the target that is written, and the words for it."""

    policy: str
    region: tuple[int, ...]
    how: str


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


def axis_changes(source: tuple[int, ...], target: tuple[int, ...], axes: tuple[str, ...]) -> str:
    """Which axes differ, and what that looks like.

    Example:
        >>> axis_changes((17, 32, 1, 1), (14, 32, 1, 1), ("output", "input", "height", "width"))
        '17 -> 14 on the output axis (key points)'
        >>> axis_changes((255,), (210,), ("output",))
        '255 -> 210 on the output axis (15 per key point)'
    """
    if len(source) != len(target):
        return f"{len(source)} axes -> {len(target)}"
    return ", ".join(
        f"{old} -> {new} on the {axes[axis]} axis{_looks_like(old, new)}"
        for axis, (old, new) in enumerate(zip(source, target, strict=True))
        if old != new
    )


def _looks_like(old: int, new: int) -> str:
    if old in _CLASSES or new in _CLASSES:
        names = [_CLASSES.get(count, f"{count} classes") for count in (old, new)]
        return f" (classes: {names[0]} -> {names[1]})"
    for joints_old, joints_new in _KEY_POINTS:
        each, rest = divmod(old - new, joints_old - joints_new)
        constant = old - each * joints_old
        if rest == 0 and each > 0 and (constant in (0, 1) or (constant > 0 and constant % 16 == 0)):
            return f" ({_per_key_point(each, constant)})"
    return ""


def _per_key_point(each: int, constant: int) -> str:
    text = "key points" if each == 1 else f"{each} per key point"
    return f"{text} + {constant}" if constant else text


def plan(policy: str, source: Spec, target: Spec, axes: tuple[str, ...]) -> Conversion | str:
    """Plan a conversion, or say why there is none.

    Example:
        >>> old, new = Spec("conv1.weight", (64, 3, 7, 7)), Spec("conv1.weight", (64, 1, 7, 7))
        >>> plan("sum", old, new, ("output", "input", "height", "width")).how
        'sum of 3 input channels'
    """
    old, new = source.shape, target.shape
    floating = source.dtype.startswith(("float", "bfloat"))
    match policy:
        case "slice":
            how = _slice(old, new, axes)
        case "inflate" if floating:
            how = _inflate(old, new)
        case "sum" if floating:
            how = _sum(old, new)
        case "resample" if floating:
            how = _resample(old, new)
        case _:
            how = ""
    if not how:
        reason = axis_changes(old, new, axes)
        return reason if policy in ("skip", "error") else f"{reason}; {policy} does not apply"
    region = tuple(map(min, old, new)) if policy == "slice" else new
    return Conversion(policy, region, how)


def _slice(old: tuple[int, ...], new: tuple[int, ...], axes: tuple[str, ...]) -> str:
    return f"slice: {axis_changes(old, new, axes)}" if len(old) == len(new) > 0 else ""


def _inflate(old: tuple[int, ...], new: tuple[int, ...]) -> str:
    if len(new) == len(old) + 1 == 5 and new[:2] == old[:2] and new[3:] == old[2:]:
        return f"inflate: spread over {new[2]} time steps"
    if len(new) == len(old) >= 3 and _differing(old, new) == [1] and new[1] > old[1]:
        return f"inflate: {old[1]} input channels repeated to {new[1]}, times {old[1]}/{new[1]}"
    return ""


def _sum(old: tuple[int, ...], new: tuple[int, ...]) -> str:
    if len(new) == len(old) >= 3 and _differing(old, new) == [1] and new[1] == 1:
        return f"sum of {old[1]} input channels"
    return ""


def _differing(old: tuple[int, ...], new: tuple[int, ...]) -> list[int]:
    return [axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]


def _resample(old: tuple[int, ...], new: tuple[int, ...]) -> str:
    grid = _grid(old, new)
    if grid is None:
        return ""
    tokens, old_grid, new_grid = grid
    kept = f", {tokens} token{'s' * (tokens > 1)} kept" if tokens else ""
    return f"resample: {shape_text(old_grid)} -> {shape_text(new_grid)} grid{kept}"


def _grid(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, tuple[int, int], tuple[int, int]] | None:
    """Tokens in front and both grids; nothing if the shapes say no single grid."""
    if len(old) != len(new) or not old:
        return None
    differing = _differing(old, new)
    if len(old) == 4 and (set(differing) <= {2, 3} or set(differing) <= {1, 2}):
        at = 2 if set(differing) <= {2, 3} else 1
        return 0, (old[at], old[at + 1]), (new[at], new[at + 1])
    if len(old) not in (2, 3) or differing != [len(old) - 2]:
        return None
    a, b = old[-2], new[-2]
    fits = [t for t in _TOKENS if min(a, b) > t and _is_square(a - t) and _is_square(b - t)]
    if len(fits) != 1:
        return None
    return fits[0], (math.isqrt(a - fits[0]),) * 2, (math.isqrt(b - fits[0]),) * 2


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def convert(tensor: Tensor, conversion: Conversion, shape: tuple[int, ...]) -> Tensor:
    """Carry out a planned conversion.

    Returns:
        Values for the leading block `conversion.region` of the target.
    """
    match conversion.policy:
        case "slice":
            return tensor[tuple(slice(size) for size in conversion.region)]
        case "inflate" if len(shape) == tensor.ndim + 1:
            return tensor.unsqueeze(2).expand(shape) / shape[2]
        case "inflate":
            times = -(-shape[1] // tensor.shape[1])
            repeated = tensor.repeat(1, times, *[1] * (tensor.ndim - 2))[:, : shape[1]]
            return repeated * (tensor.shape[1] / shape[1])
        case "sum":
            return tensor.sum(1, keepdim=True)
        case "resample":
            return _resampled(tensor, shape)
    raise AssertionError(conversion.policy)


def _resampled(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    grid = _grid(tuple(tensor.shape), shape)
    assert grid is not None
    tokens, old, new = grid
    if tensor.ndim == 4:
        last = tuple(tensor.shape[:2]) == shape[:2]
        image_BCHW = tensor if last else tensor.permute(0, 3, 1, 2)
        resized_BCHW = _bicubic(image_BCHW, new)
        return resized_BCHW if last else resized_BCHW.permute(0, 2, 3, 1)
    table_BNC = tensor.reshape(-1, tensor.shape[-2], tensor.shape[-1])
    cells_BNC = table_BNC[:, tokens:]
    image_BCHW = cells_BNC.reshape(len(table_BNC), *old, -1).permute(0, 3, 1, 2)
    resized_BNC = _bicubic(image_BCHW, new).permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([table_BNC[:, :tokens], resized_BNC], dim=1).reshape(shape)


def _bicubic(image_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    resized: Tensor = F.interpolate(image_BCHW.float(), size=size, mode="bicubic", align_corners=False, antialias=True)
    return resized.to(image_BCHW.dtype)
