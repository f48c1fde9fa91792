"""Inner leaves: tensors that modules inside return or read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from autoadapt.contracts.capturing.centres import Grid

__all__ = ["InnerKey", "InnerLeaf", "Shape"]

Shape: TypeAlias = tuple[int, ...]
InnerKey: TypeAlias = tuple[str, int, str]
"""Path of a module, which of its calls, path within its output; `inputs.0` for what it reads."""


@dataclass(frozen=True)
class InnerLeaf:
    """A tensor that an inner module returned, or read where no module returned it."""

    shape: Shape
    dtype: torch.dtype
    started: int
    """When the call began, counted in calls that began or ended."""
    finished: int
    same_as: InnerKey | None
    """The call that returned the very same tensor object before."""
    reads: InnerKey | None = None
    """The call that returned the tensor which is its first argument, or a view of all of it."""
    version: int = 0
    """How often the tensor had been written to by then."""
    contiguous: bool = True
    grid: Grid = field(default_factory=dict)
    """Where its cells lie, if that was followed."""
    class_token: bool = False
    """Whether it is made of class tokens alone, if that was followed."""
