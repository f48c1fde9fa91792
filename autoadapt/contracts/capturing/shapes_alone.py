"""Shapes alone: a forward pass on the meta device, where what only keeps shapes is skipped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["everywhere_meta"]


@contextlib.contextmanager
def everywhere_meta(active: bool) -> Iterator[None]:
    """Factory functions inside a forward pass make meta tensors, and what only keeps shapes is skipped."""
    if not active:
        yield
        return
    with torch.device("meta"), _ShapesAlone():
        yield


class _ShapesAlone(TorchFunctionMode):
    """Normalisation and recurrence keep shapes, and on meta their primitives take most of a probe's time.

    A recurrent layer is run step by step there: minutes for the long side of an image.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm and len(args) > 1 and args[1] is not None and len(args[1]) == args[0].shape[1]:
            return torch.empty_like(args[0])
        if func is F.layer_norm and len(args) > 1 and tuple(args[0].shape[-len(args[1]) :]) == tuple(args[1]):
            return torch.empty_like(args[0])
        if func in (torch.lstm, torch.gru) and isinstance(args[2], (list, tuple)):  # not a packed sequence
            states = args[1] if func is torch.lstm else (args[1],)
            channels = states[0].shape[-1] * (1 + bool(args[7]))
            return args[0].new_empty(*args[0].shape[:-1], channels), *map(torch.empty_like, states)
        return func(*args, **(kwargs or {}))
