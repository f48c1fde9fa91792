"""Parameters: what a module's `forward` can be called with, given or not."""

from __future__ import annotations

from autoadapt.contracts.signature.specs import Frozen
from autoadapt.contracts.trees import Constant

__all__ = ["Parameter"]


class Parameter(Frozen):
    """One parameter of `forward`."""

    name: str
    default: Constant | None = None
    """What it is where nobody gives it; None where it must be given."""
