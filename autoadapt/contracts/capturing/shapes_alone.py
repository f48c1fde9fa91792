"""Shapes alone: a forward pass on the meta device, where what only keeps shapes is skipped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.graph import increment_version

from autoadapt.contracts.made_tables import MadeTables
from autoadapt.contracts.meta_device import OnMeta, not_emptied

__all__ = ["everywhere_meta"]


@contextlib.contextmanager
def everywhere_meta(active: bool, tables: MadeTables | None = None) -> Iterator[None]:
    """Factory functions inside a forward pass make meta tensors, and what only keeps shapes is skipped."""
    if not active:
        yield
        return
    with torch.device("meta"), _ShapesAlone(tables):
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
        if func in _QUICK and args and not (types or self._is_made_of_sizes(args[0])):
            with contextlib.suppress(RuntimeError, NotImplementedError), torch._C.DisableTorchFunction():
                made = _QUICK[func](*args, **(kwargs or {}))
                return not_emptied(func, args, func(*args, **(kwargs or {}))) if made is None else made
        return super().__torch_function__(func, types, args, kwargs)


def _batch_norm(x: torch.Tensor, mean: torch.Tensor | None = None, *_rest: Any) -> torch.Tensor | None:
    return _alike(x) if mean is not None and len(mean) == x.shape[1] else None


def _layer_norm(x: torch.Tensor, shape: Sequence[int] = (), *_rest: Any) -> torch.Tensor | None:
    return _alike(x) if shape and tuple(x.shape[-len(shape) :]) == tuple(shape) else None


def _lstm(x: torch.Tensor, states: Any, *rest: Any) -> tuple[torch.Tensor, ...] | None:
    return _recurrent(x, states, *rest) if isinstance(rest[0], (list, tuple)) else None  # not a packed sequence


def _gru(x: torch.Tensor, state: Any, *rest: Any) -> tuple[torch.Tensor, ...] | None:
    return _recurrent(x, (state,), *rest) if isinstance(rest[0], (list, tuple)) else None


def _recurrent(x: torch.Tensor, states: Sequence[torch.Tensor], *rest: Any) -> tuple[torch.Tensor, ...]:
    channels = states[0].shape[-1] * (1 + bool(rest[5]))
    return x.new_empty(*x.shape[:-1], channels), *map(torch.empty_like, states)


def _alike(x: torch.Tensor) -> torch.Tensor:
    """As `torch.empty_like`, which asks Python for the strides."""
    return x.clone()


def _activated(x: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor | None:
    """What an activation gives; None where it may be in place."""
    plain = not (named.keys() - {"inplace", "approximate"} or named.get("inplace") or any(one is True for one in rest))
    return _alike(x) if plain and x.is_meta and x.is_floating_point() else None


def _added(x: torch.Tensor, y: Any = None, **named: Any) -> torch.Tensor | None:
    return _alike(x) if not named and _are_alike(x, y) else None


def _added_in_place(x: torch.Tensor, y: Any = None, **named: Any) -> torch.Tensor | None:
    if named or not _are_alike(x, y):
        return None
    increment_version(x)
    return x


def _are_alike(x: torch.Tensor, y: Any) -> bool:
    """Whether nothing is to be found out of two tensors, and nobody follows what torch runs."""
    if torch._C._len_torch_dispatch_stack() or not (isinstance(y, torch.Tensor) and x.is_meta and y.is_meta):
        return False
    return x.shape == y.shape and x.dtype is y.dtype and x.is_contiguous() and y.is_contiguous()


def _convolved(
    x: torch.Tensor,
    weight: torch.Tensor,
    _bias: torch.Tensor | None = None,
    stride: Any = (),
    padding: Any = (),
    dilation: Any = (),
    groups: int = 1,
) -> torch.Tensor | None:
    """As PyTorch does it in Python, for batches; None where it would refuse, or somebody follows what torch runs."""
    axes = x.dim() - 2
    if torch._C._len_torch_dispatch_stack() or not (x.is_meta and weight.is_meta) or weight.dim() != x.dim():
        return None
    if any(type(one) is not tuple or len(one) != axes for one in (stride, padding, dilation)):
        return None
    if x.shape[1] != weight.shape[1] * groups or x.shape[1] == 0:
        return None
    rows = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    left = [(size + 2 * pad - apart * (kernel - 1) - 1, step) for size, kernel, step, pad, apart in rows]
    if any(over < 0 or step < 1 for over, step in left):
        return None
    sizes = [over // step + 1 for over, step in left]
    return torch.empty((x.shape[0], weight.shape[0], *sizes), dtype=x.dtype, device="meta")


def _as_ever(*_args: Any, **_named: Any) -> None:
    """PyTorch is quick by itself."""


_WITHOUT_VALUES: Mapping[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    torch.lstm: _lstm,
    torch.gru: _gru,
}
"""By function what gives a tensor of the right shape, or None where it does not apply."""

_QUICK: Mapping[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolved),
    **dict.fromkeys((F.relu, torch.relu, torch.Tensor.relu, F.gelu, F.silu, F.hardswish, F.leaky_relu), _activated),
    **dict.fromkeys((torch.sigmoid, torch.Tensor.sigmoid, torch.tanh, torch.Tensor.tanh), _activated),
    **dict.fromkeys((torch.add, torch.Tensor.add, torch.Tensor.__add__), _added),
    **dict.fromkeys((torch.Tensor.add_, torch.Tensor.__iadd__), _added_in_place),
    **dict.fromkeys((F.linear, torch.relu_), _as_ever),
}
"""Most of what runs in networks, which makes no tensor but what it returns: what gives that quicker, where it can."""
