"""Values by tensor: a mapping with tensor objects as keys, which it does not keep alive."""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class ByTensor(Generic[T]):
    """A mapping with tensors as keys, compared by identity and held by weak references.

    PyTorch's own `WeakIdKeyDictionary` takes five times as long, and this is used at every operation of a run.

    Example:
        >>> depths, tensor = ByTensor[int](), torch.ones(2)
        >>> depths.put(tensor, 3)
        >>> depths.get(tensor), depths.get(torch.ones(2))
        (3, None)
    """

    def __init__(self) -> None:
        self._rows: dict[int, tuple[weakref.ref[torch.Tensor], T]] = {}

    def get(self, tensor: torch.Tensor) -> T | None:
        """The value of a tensor; None where it has none."""
        row = self._rows.get(id(tensor))
        return row[1] if row is not None and row[0]() is tensor else None  # a tensor that is gone may have had the id

    def put(self, tensor: torch.Tensor, value: T | None) -> None:
        """Set the value of a tensor, or remove it where the value is None."""
        if value is None:
            self._rows.pop(id(tensor), None)
        else:
            self._rows[id(tensor)] = weakref.ref(tensor), value

    def __bool__(self) -> bool:
        return bool(self._rows)
