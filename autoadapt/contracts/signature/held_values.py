"""Held values: what holds of the values of an output at every input, such as vectors of norm 1."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from pydantic import ConfigDict, Field

from autoadapt.contracts.facts import MadeByHand

__all__ = ["Held"]

What: TypeAlias = Literal["norm 1", "probabilities"]

CLOSE = 1e-5
"""How far norms and sums may be from 1, in single precision; lower precisions are allowed a few of their own steps."""


class Held(MadeByHand):
    """What holds of the vectors along an axis.

    Example:
        >>> print(Held(what="norm 1", axis=1))
        norm 1 along axis 1
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    what: What
    """That their Euclidean norm is 1; or that they are not negative and sum to 1."""
    axis: int = Field(ge=1)

    def __str__(self) -> str:
        return f"{self.what} along axis {self.axis}"

    def is_kept_by(self, values: torch.Tensor) -> bool:
        """Whether it holds of all vectors of a tensor.

        Example:
            >>> vectors = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
            >>> Held(what="norm 1", axis=1).is_kept_by(vectors), Held(what="probabilities", axis=1).is_kept_by(vectors)
            (True, False)
        """
        if not values.numel():
            return True
        wide = values.detach().double()
        told = wide.norm(dim=self.axis) if self.what == "norm 1" else wide.sum(self.axis)
        off = float((told - 1).abs().max())
        near = off <= max(CLOSE, 4 * torch.finfo(values.dtype).eps)
        return near and (self.what == "norm 1" or bool((wide >= 0).all()))

    @classmethod
    def found_in(cls, values: torch.Tensor) -> Held | None:
        """What holds of a tensor of samples, along channels on axis 1 or at the end; None where nothing does."""
        if not values.is_floating_point() or values.is_meta or not values.numel() or values.dim() < 2:
            return None
        axes = [axis for axis in dict.fromkeys([values.dim() - 1, 1]) if values.shape[axis] > 1]
        kinds: tuple[What, ...] = ("norm 1", "probabilities")
        options = [cls(what=what, axis=axis) for axis in axes for what in kinds]
        return next((one for one in options if one.is_kept_by(values)), None)
