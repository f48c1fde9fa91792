"""Forms: what kinds of arguments a call is given, as text; sizes of tensors and whole numbers may be any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["form_of"]


def form_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The kinds of arguments of a call.

    Example:
        >>> form_of((torch.zeros(2), 7), {"mask": None, "mode": "fast"})
        "tensor, number, mask=None, mode='fast'"
    """
    return ", ".join([*map(_kind, args), *(f"{name}={_kind(value)}" for name, value in kwargs.items())])


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "tensor"
    if value is None or isinstance(value, (bool, float, str)):
        return repr(value)
    if isinstance(value, (int, torch.SymInt)):
        return "number"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_kind, value))})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_kind(one)}" for key, one in value.items()) + "}"
    return type(value).__name__
