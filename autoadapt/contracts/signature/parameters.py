"""Parameters: those of a module's `forward`, with their defaults and what the module's config says of them."""

from __future__ import annotations

from pydantic import Field

from autoadapt.contracts.signature.cell_centres import Frozen
from autoadapt.contracts.trees import Constant, Opaque


class Parameter(Frozen):
    """One parameter of `forward`."""

    name: str
    default: Constant | Opaque | None = None
    """Its default value; None where it must be given."""
    told: Constant | None = None
    """The value in the module's config that is used where the argument is None."""
    spares: tuple[str, ...] = Field(default=(), exclude_if=lambda spares: not spares)
    """Outputs that are None where it is False instead, while everything else that is returned stays as it is."""
    further: tuple[tuple[str, bool], ...] | None = Field(default=None, exclude_if=lambda further: further is None)
    """For `**kwargs` only: the flags of the module's config, which may be passed as keyword arguments."""

    @property
    def takes_none(self) -> bool:
        """Whether its default is None."""
        return self.default == Constant()
