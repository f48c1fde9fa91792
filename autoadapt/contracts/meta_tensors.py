"""Tensors on the meta device: which ones rules for shapes cover, and new ones that lie as PyTorch would lay them."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import nn

Tensor: TypeAlias = torch.Tensor


def are_plain(*tensors: Any) -> bool:
    """Whether rules cover these tensors: contiguous floating ones of one dtype on the meta device."""
    dtype = tensors[0].dtype
    return all(is_known(one) and one.dtype is dtype and _is_contiguous(one) for one in tensors)


def _is_contiguous(x: Tensor) -> bool:
    """Whether a tensor is contiguous, and not in `channels_last` as well, as maps of one cell or one channel can be."""
    if not x.is_contiguous() or x.dim() < 4:
        return x.is_contiguous()
    channels_last = (torch.channels_last, torch.channels_last_3d)[x.dim() == 5]
    return (
        x.dim() > 5
        or not x.is_contiguous(memory_format=channels_last)
        or x.stride() == without_values(x, *x.shape).stride()
    )


def is_known(value: Any) -> bool:
    """Whether this is a floating tensor or parameter on the meta device, and of no other subclass."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.is_meta
        and value.layout is torch.strided
        and value.is_floating_point()
    )


def without_values(like: Tensor, *shape: int) -> Tensor:
    """A tensor of a shape, of the dtype and on the device of another; `new_empty` computes that in Python."""
    return torch.empty(shape, dtype=like.dtype, device=like.device)


def are_known(*tensors: Any) -> bool:
    """Whether all are floating tensors of one dtype on the meta device, contiguous or not."""
    return all(map(is_known, tensors)) and len({one.dtype for one in tensors}) == 1


def is_dense(x: Tensor) -> bool:
    """Whether the axes of a tensor lie in memory without gaps and overlaps, in any order."""
    expected = 1
    for step, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if step != expected:
                return False
            expected *= size
    return True


def alike(x: Tensor) -> Tensor:
    """A tensor as `clone` makes it: its axes lie as those of a dense one do."""
    if not is_dense(x):
        return torch.ops.aten.clone.default(x)  # type: ignore[no-any-return]
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
