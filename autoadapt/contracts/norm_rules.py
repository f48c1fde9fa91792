"""Norm rules: the results of normalisation and of its backward pass on the meta device; None where none applies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from autoadapt.contracts.meta_tensors import are_known, are_plain, is_known, without_values

Tensor: TypeAlias = torch.Tensor


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, _eps: float
) -> tuple[Tensor, ...] | None:
    """The result is contiguous, whatever the strides of the input."""
    given, kept = [one for one in (weight, bias) if one is not None], x.dim() - len(shape)
    if not (_is_single(x) and shape and kept >= 0 and list(x.shape[kept:]) == list(shape) and are_plain(*given, x[:0])):
        return None
    if any(list(one.shape) != list(shape) for one in given):
        return None
    moments = (*x.shape[:kept], *(1 for _ in shape))
    return without_values(x, *x.shape), without_values(x, *moments), without_values(x, *moments)


def _is_single(x: Tensor) -> bool:
    """Whether a norm's mean and variance have the dtype of its input, which half precision does not guarantee."""
    return is_known(x) and x.dtype in (torch.float32, torch.float64)


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    _momentum: float,
    _eps: float,
) -> tuple[Tensor, ...] | None:
    """Outputs of `native_batch_norm`: `[B, C, ...]`, and mean and inverse deviation `[C]`."""
    given = [one for one in (weight, bias, mean, variance) if one is not None]
    if x.dim() < 2 or not _is_single(x) or not are_plain(x, *given) or 0 in x.shape:
        return None
    if (mean is None) != (variance is None) or (x.numel() == x.shape[1] if training else mean is None):
        return None
    if any(one.shape != x.shape[1:2] for one in given):
        return None
    return without_values(x, *x.shape), without_values(x, x.shape[1]), without_values(x, x.shape[1])


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    count: int,
    channels: int,
    _size: int,
    groups: int,
    _eps: float,
) -> tuple[Tensor, ...] | None:
    """Outputs of `native_group_norm`: `[B, C, ...]`, and mean and inverse deviation `[B, groups]`."""
    given = [one for one in (weight, bias) if one is not None]
    if not _is_single(x) or not are_plain(x, *given) or any(one.shape != (channels,) for one in given):
        return None
    if tuple(x.shape[:2]) != (count, channels) or groups < 1 or channels % groups:
        return None
    return without_values(x, *x.shape), without_values(x, count, groups), without_values(x, count, groups)


def _norm_backward(gradient: Tensor, x: Tensor, sizes: Sequence[int], weights: Sequence[Any], wanted: Any) -> Any:
    """Gradients of input, weight and bias, where all three are wanted."""
    if not all(wanted) or any(one is None or list(one.shape) != list(sizes) for one in weights):
        return None
    if not _is_single(x) or not are_plain(x, gradient, *weights) or gradient.shape != x.shape:
        return None
    return without_values(x, *x.shape), without_values(x, *sizes), without_values(x, *sizes)


def layer_norm_backward(gradient: Tensor, x: Tensor, shape: Sequence[int], *rest: Any) -> Any:
    """As a contiguous gradient lies, however the axes of the input do."""
    _mean, _rstd, weight, bias, wanted = rest
    fits = shape and list(x.shape[-len(shape) :]) == list(shape) and gradient.shape == x.shape
    if not fits or not are_known(gradient, x):
        return None
    return _norm_backward(gradient, gradient, shape, (weight, bias), wanted)


def batch_norm_backward(gradient: Tensor, x: Tensor, weight: Any, *rest: Any) -> Any:
    return _norm_backward(gradient, x, x.shape[1:2], (weight,), rest[-1])


def group_norm_backward(gradient: Tensor, x: Tensor, *rest: Any) -> Any:
    _mean, _rstd, weight, count, channels, _size, groups, wanted = rest
    fits = tuple(x.shape[:2]) == (count, channels) and groups > 0 and channels % groups == 0
    return _norm_backward(gradient, x, x.shape[1:2], (weight,), wanted) if fits else None
