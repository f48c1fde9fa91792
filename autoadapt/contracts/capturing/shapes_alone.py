"""Shapes alone: forward passes on the meta device with quick rules for normalisation, recurrence and attention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from autoadapt.contracts.made_tables import MadeTables
from autoadapt.contracts.meta_device import OnMeta
from autoadapt.contracts.meta_tensors import are_known, are_plain, without_values
from autoadapt.contracts.shape_rules import ShapeRules


@contextlib.contextmanager
def everywhere_meta(active: bool, tables: MadeTables | None = None, *, followed: bool = False) -> Iterator[None]:
    """Make meta the default device within a block, and answer some functions by rules for shapes.

    Args:
        active: Whether to do anything.
        tables: Notes what is computed from sizes alone.
        followed: Whether operations are followed in this run, so that rules must not replace them.
    """
    if not active:
        yield
        return
    with ShapeRules(), torch.device("meta"), _ShapesAlone(tables, followed):
        yield


class _ShapesAlone(OnMeta):
    """Answers functions by rules where their decomposition takes most of a probe's time.

    torch runs a recurrent layer step by step on the meta device: minutes for the long side of an image.
    """

    def __init__(self, tables: MadeTables | None, followed: bool) -> None:
        super().__init__(tables)
        self._followed = followed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _WITHOUT_VALUES:
            with torch._C.DisableTorchFunction():  # function modes make each access to a tensor slow
                made = _WITHOUT_VALUES[func](*args)
            if made is not None:
                return made
        return super().__torch_function__(func, types, args, kwargs)

    def _returned(self, func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        if func in _PRODUCTS and not self._followed and not torch.is_grad_enabled():
            with torch._C.DisableTorchFunction():
                made = _PRODUCTS[func](*args, **given)
            if made is not None:
                return made
        return super()._returned(func, args, given)


def _batch_norm(x: torch.Tensor, mean: torch.Tensor | None = None, *_rest: Any) -> torch.Tensor | None:
    """The result is contiguous, or in `channels_last` as its input is."""
    if mean is None or len(mean) != x.shape[1]:
        return None
    ordered = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x.clone(memory_format=torch.preserve_format if ordered else torch.contiguous_format)


def _layer_norm(x: torch.Tensor, shape: Sequence[int] = (), *_rest: Any) -> torch.Tensor | None:
    """The result is contiguous, whatever the strides of the input."""
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
    made = x.new_empty(*x.shape[:-1], channels)  # made of `x`, for what follows the cells of a sequence
    return made, *map(torch.empty_like, states)


def _linear(x: Any = None, weight: Any = None, bias: Any = None, **_by_name: Any) -> torch.Tensor | None:
    """For contiguous tensors of one dtype; calls with keyword arguments are left to PyTorch."""
    given = [one for one in (x, weight, bias) if one is not None]
    if _by_name or len(given) < 2 or not are_plain(*given) or weight.dim() != 2 or x.dim() < 2:
        return None
    fits = x.shape[-1] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])
    return without_values(x, *x.shape[:-1], weight.shape[0]) if fits else None


def _attention(query: Any = None, key: Any = None, value: Any = None, *rest: Any, **named: Any) -> torch.Tensor | None:
    """For queries, keys and values of as many heads, without mask and dropout."""
    options = (*rest, *(named.get(name) for name in ("attn_mask", "dropout_p", "enable_gqa")))
    if any(isinstance(one, torch.Tensor) or one for one in options) or not are_known(query, key, value):
        return None
    if query.dim() < 3 or query.shape[:-2] != key.shape[:-2] or query.shape[-1] != key.shape[-1]:
        return None
    return without_values(query, *query.shape[:-1], value.shape[-1]) if key.shape[:-1] == value.shape[:-1] else None


_PRODUCTS: Mapping[Any, Callable[..., Any]] = {F.linear: _linear, F.scaled_dot_product_attention: _attention}
"""Functions that torch decomposes into many operations; skipped where operations are followed."""
_WITHOUT_VALUES: Mapping[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    torch.lstm: _lstm,
    torch.gru: _gru,
}
"""By function, a rule that returns a tensor of the right shape, or None where it does not apply."""
