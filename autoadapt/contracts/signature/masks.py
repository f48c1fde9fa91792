"""Masks: inputs that say which tokens or samples count."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autoadapt.contracts.signature.specs import Frozen

__all__ = ["Mask", "mask_at"]


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

    def example(self, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        """A mask as padding makes it: what is hidden stands behind what counts, and half or more of it counts.

        Shape:
            `[B, N]`, truth values
        """
        batch, size = shape
        least = max((size + 1) // 2, 1)
        counted_B1 = torch.randint(least, max(size, least) + 1, (batch, 1), generator=generator)
        return (torch.arange(size) < counted_B1) == self.counts


def mask_at(masks: Sequence[Mask], path: str) -> Mask | None:
    """What is known of an input that hides others; None where it hides nothing."""
    return next((mask for mask in masks if mask.argument == path), None)
