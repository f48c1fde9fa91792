"""Parameters: what a module's `forward` can be called with, given or not."""

from __future__ import annotations

from pydantic import Field

from autoadapt.contracts.signature.specs import Frozen
from autoadapt.contracts.trees import Constant, Opaque

__all__ = ["Parameter"]


class Parameter(Frozen):
    """One parameter of `forward`."""

    name: str
    default: Constant | Opaque | None = None
    """What it is where nobody gives it; None where it must be given."""
    told: Constant | None = None
    """What a default of None stands for, where the module's config says that."""
    further: tuple[tuple[str, bool], ...] | None = Field(default=None, exclude_if=lambda further: further is None)
    """Of `**kwargs` alone: what the module's config says of flags, which keyword arguments may go by."""

    @property
    def takes_none(self) -> bool:
        """Whether it is None where nobody gives it."""
        return self.default == Constant()
