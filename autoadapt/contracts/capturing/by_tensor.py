"""Values by tensor: what is known of single tensor objects while a module runs, none of which is kept alive."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch.utils.weak import TensorWeakRef

__all__ = ["ByTensor"]

T = TypeVar("T")


class ByTensor(Generic[T]):
    """As a dict with tensors for keys, which are compared as objects.

    PyTorch's own `WeakIdKeyDictionary` takes five times as long, and this is asked at every operation of a run.

    Example:
        >>> depths, tensor = ByTensor[int](), torch.ones(2)
        >>> depths.put(tensor, 3)
        >>> depths.get(tensor), depths.get(torch.ones(2))
        (3, None)
    """

    def __init__(self) -> None:
        self._rows: dict[int, tuple[TensorWeakRef, T]] = {}

    def get(self, tensor: torch.Tensor) -> T | None:
        """The value of a tensor; None where it has none."""
        row = self._rows.get(id(tensor))
        return row[1] if row is not None and row[0]() is tensor else None  # another may have had the number before

    def put(self, tensor: torch.Tensor, value: T | None) -> None:
        """Give a tensor a value, or take it away."""
        if value is None:
            self._rows.pop(id(tensor), None)
        else:
            self._rows[id(tensor)] = TensorWeakRef(tensor), value

    def __bool__(self) -> bool:
        return bool(self._rows)
