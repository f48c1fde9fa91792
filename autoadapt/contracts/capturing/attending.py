"""Attending: which modules of a run weigh tokens by each other."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["Attending"]


class Attending(TorchFunctionMode):
    """Notes which module was running when a function of attention was called.

    That is scaled dot products, or a softmax along the last axis of matrices: weights of a few branches or of one
    pooled query are vectors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[str, bool]] = []
        """Path of each module that runs, the innermost last, and whether it holds others."""
        self.found: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _WEIGHING and (func in _ATTENTION or _of_matrices(args, kwargs or {})):
            self.found.update([path for path, holds in self.running if holds][-1:])
        return func(*args, **(kwargs or {}))


def _of_matrices(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    scores = args[0] if args else kwargs.get("input")
    axis = args[1] if len(args) > 1 else kwargs.get("dim")
    if not isinstance(scores, torch.Tensor) or scores.ndim < 3 or axis not in (-1, scores.ndim - 1):
        return False
    return min(scores.shape[-2:]) > 1


_ATTENTION = frozenset({F.scaled_dot_product_attention, F.multi_head_attention_forward})
_WEIGHING = _ATTENTION | {F.softmax, torch.softmax, torch.Tensor.softmax}
