"""Multiply-adds of one forward pass on an image, counted on the meta device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from autoadapt.contracts.caches import OutsideCaches, apart
from autoadapt.contracts.instances import dtype_of
from autoadapt.contracts.meta_device import on_the_meta_device
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.views import eval_copy, on_meta


def multiply_adds_at(module: nn.Module, size: Sequence[int], channels: int) -> int:
    """Multiply-adds of convolutions, linear layers, matrix products and attention; 0 where they cannot be counted.

    Example:
        >>> multiply_adds_at(nn.Conv2d(3, 8, 2, stride=2), (4, 6), 3)
        576
    """
    copied = eval_copy(module, on_meta)
    image = torch.empty((1, channels, *size), device="meta", dtype=dtype_of(copied))
    counting = _Counting()
    try:
        with undisturbed(None), on_the_meta_device(module, OutsideCaches(copied)), counting:
            apart(copied, image)
    except Exception:  # the model reads values, which tensors on the meta device do not have
        return 0
    return counting.total


class _Counting(TorchFunctionMode):
    """Counts multiply-adds of functions as they run; torch's `FlopCounterMode` imports triton, which takes 0.5 s."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _WEIGHTED:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self.total += made.numel() * math.prod(weight.shape[1:])
        elif func in _PRODUCTS:
            self.total += made.numel() * args[0].shape[-1]
        elif func is F.scaled_dot_product_attention:
            query, key = args[0], args[1]
            self.total += query.numel() * key.shape[-2] + made.numel() * key.shape[-2]
        return made


_WEIGHTED = {F.linear, torch.conv1d, torch.conv2d, torch.conv3d, F.conv1d, F.conv2d, F.conv3d}
_PRODUCTS = {torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.bmm}
