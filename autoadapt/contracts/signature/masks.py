"""Masks: inputs that say which tokens or samples count."""

from __future__ import annotations

from autoadapt.contracts.signature.specs import Frozen

__all__ = ["Mask"]


class Mask(Frozen):
    """An argument `[B, N]` of zeros and ones: what it hides changes nothing of what comes out for the rest.

    Example:
        >>> print(Mask(argument="key_padding_mask", axis="N", counts=False))
        key_padding_mask hides along N where it is 1
    """

    argument: str
    """Path among the inputs, or the name of a parameter that was not given."""
    axis: str
    """The input axis that it lies along."""
    counts: bool = True
    """Whether ones stand at what counts, and zeros at what is hidden; else the other way round."""

    def __str__(self) -> str:
        return f"{self.argument} hides along {self.axis} where it is {int(not self.counts)}"
