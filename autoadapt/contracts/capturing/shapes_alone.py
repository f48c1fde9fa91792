"""Shapes alone: a forward pass on the meta device, where what only keeps shapes is skipped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from autoadapt.contracts.made_tables import MadeTables
from autoadapt.contracts.meta_device import OnMeta
from autoadapt.contracts.shape_rules import ShapeRules

__all__ = ["everywhere_meta"]


@contextlib.contextmanager
def everywhere_meta(active: bool, tables: MadeTables | None = None) -> Iterator[None]:
    """Factory functions inside a forward pass make meta tensors, and what only keeps shapes is skipped."""
    if not active:
        yield
        return
    with ShapeRules(), torch.device("meta"), _ShapesAlone(tables):
        yield


class _ShapesAlone(OnMeta):
    """Normalisation and recurrence keep shapes, and on meta their primitives take most of a probe's time.

    A recurrent layer is run step by step there: minutes for the long side of an image.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _WITHOUT_VALUES:
            with torch._C.DisableTorchFunction():  # other modes make each look at a tensor slow
                made = _WITHOUT_VALUES[func](*args)
            if made is not None:
                return made
        return super().__torch_function__(func, types, args, kwargs)


def _batch_norm(x: torch.Tensor, mean: torch.Tensor | None = None, *_rest: Any) -> torch.Tensor | None:
    """Contiguous, or with channels last as its input."""
    if mean is None or len(mean) != x.shape[1]:
        return None
    ordered = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x.clone(memory_format=torch.preserve_format if ordered else torch.contiguous_format)


def _layer_norm(x: torch.Tensor, shape: Sequence[int] = (), *_rest: Any) -> torch.Tensor | None:
    """Contiguous, however its input lies."""
    return (
        x.clone(memory_format=torch.contiguous_format)
        if shape and tuple(x.shape[-len(shape) :]) == tuple(shape)
        else None
    )


def _lstm(x: torch.Tensor, states: Any, *rest: Any) -> tuple[torch.Tensor, ...] | None:
    return _recurrent(x, states, *rest) if isinstance(rest[0], (list, tuple)) else None  # not a packed sequence


def _gru(x: torch.Tensor, state: Any, *rest: Any) -> tuple[torch.Tensor, ...] | None:
    return _recurrent(x, (state,), *rest) if isinstance(rest[0], (list, tuple)) else None


def _recurrent(x: torch.Tensor, states: Sequence[torch.Tensor], *rest: Any) -> tuple[torch.Tensor, ...]:
    channels = states[0].shape[-1] * (1 + bool(rest[5]))
    return x.new_empty(*x.shape[:-1], channels), *map(torch.empty_like, states)


_WITHOUT_VALUES: Mapping[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    torch.lstm: _lstm,
    torch.gru: _gru,
}
"""By function what gives a tensor of the right shape, or None where it does not apply."""
