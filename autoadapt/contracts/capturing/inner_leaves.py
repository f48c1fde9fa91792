"""Inner leaves: tensors that submodules return or read, as a run notes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from autoadapt.contracts.capturing.cell_axes import Grid
from autoadapt.contracts.capturing.class_tokens import Joined

Shape: TypeAlias = tuple[int, ...]
InnerKey: TypeAlias = tuple[str, int, str]
"""Path of a module; which of its calls, from 0; path within its output, or `inputs.0` for its first argument."""


@dataclass(frozen=True)
class InnerLeaf:
    """A tensor that an inner module returned, or read where no module returned it."""

    shape: Shape
    dtype: torch.dtype
    started: int
    """When the call began: the number of calls that had begun or ended before."""
    finished: int
    """When it ended, in the same count."""
    same_as: InnerKey | None
    """The first call that returned the very same tensor object, where that is an earlier one."""
    reads: InnerKey | None = None
    """The call that returned the first argument of this one, or a tensor of which that is a view."""
    version: int = 0
    """How often the tensor had been written to in place by then."""
    contiguous: bool = True
    grid: Grid = field(default_factory=dict)
    """Where its cells lie, if that was followed."""
    joined: Joined | None = None
    """Which of its tokens are no cells; `ALONE` where it is computed from class tokens alone; if that was followed."""
