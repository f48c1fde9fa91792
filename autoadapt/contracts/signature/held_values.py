"""Held values: a property that the values of an output have at every input, such as vectors of norm 1."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from pydantic import Field

from autoadapt.contracts.facts import MadeByHand

Bound: TypeAlias = Literal["never negative", "between 0 and 1", "between -1 and 1"]
"""The range of each single value, as after ReLU, a sigmoid, or tanh."""
What: TypeAlias = Literal["norm 1", "probabilities", "log-probabilities"] | Bound
_BOUNDS: dict[str, tuple[float, float]] = {
    "never negative": (0, math.inf),
    "between 0 and 1": (0, 1),
    "between -1 and 1": (-1, 1),
}

CLOSE = 1e-5
"""How far norms and sums may be from 1 in float32; coarser dtypes are allowed four times their machine epsilon."""


class Held(MadeByHand):
    """A property of the vectors along an axis, or of each value.

    Vectors of zeros, as padded tokens have, are exempt.

    Example:
        >>> print(Held(what="norm 1", axis=1))
        norm 1 along axis 1
        >>> print(Held(what="probabilities", axis=2, on=True))  # a map of places, whose sum is 1
        probabilities along axis 2 on
    """

    what: What
    """Vectors of Euclidean norm 1, of probabilities that sum to 1, or of their logarithms; or bounds of each value,
    whatever the axis."""
    axis: int = Field(default=1, ge=1)
    on: bool = Field(default=False, exclude_if=lambda on: not on)
    """Whether a vector extends over all axes from `axis` on, as a probability map over all cells does."""

    def __str__(self) -> str:
        return self.what if self.bounds else f"{self.what} along axis {self.axis}{' on' * self.on}"

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The smallest and the largest value; None for a property of vectors."""
        return _BOUNDS.get(self.what)

    def implies(self, other: Held) -> bool:
        """Whether the other property follows from this one.

        Example:
            >>> Held(what="between 0 and 1").implies(Held(what="between -1 and 1"))
            True
        """
        own, theirs = self.bounds, other.bounds
        return self == other or (own is not None and theirs is not None and theirs[0] <= own[0] <= own[1] <= theirs[1])

    def is_kept_by(self, values: torch.Tensor) -> bool:
        """Whether a tensor has the property.

        Example:
            >>> vectors = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, 0.0]])
            >>> Held(what="norm 1", axis=1).is_kept_by(vectors), Held(what="probabilities", axis=1).is_kept_by(vectors)
            (True, False)
        """
        wide = values.detach().double()
        if self.bounds is not None:
            return bool(((wide >= self.bounds[0]) & (wide <= self.bounds[1])).all())
        wide = wide.flatten(self.axis) if self.on else wide
        if self.what == "norm 1":
            total, fits = wide.norm(dim=self.axis), True
        else:
            shares = wide if self.what == "probabilities" else wide.exp()
            total, fits = shares.sum(self.axis), bool((shares >= 0).all())
        off = (total - 1).abs()[(wide != 0).any(self.axis)]
        return fits and bool((off <= max(CLOSE, 4 * torch.finfo(values.dtype).eps)).all())

    @classmethod
    def found_in(cls, values: torch.Tensor) -> Held | None:
        """The property of vectors that a batch has: along axis 1, along the last axis, or over all cells of each map.

        None where it has none of them, or is all zeros.
        """
        if not values.is_floating_point() or values.is_meta or values.dim() < 2 or not values.any():
            return None
        axes = [(axis, False) for axis in dict.fromkeys([values.dim() - 1, 1])] + [(2, True)] * (values.dim() > 3)
        kinds: tuple[What, ...] = ("probabilities", "log-probabilities", "norm 1")
        options = [cls(what=what, axis=axis, on=on) for axis, on in axes if values.shape[axis] > 1 for what in kinds]
        return next((one for one in options if one.is_kept_by(one._first(values)) and one.is_kept_by(values)), None)

    def _first(self, values: torch.Tensor) -> torch.Tensor:
        """A single vector of a tensor, to reject most properties without reading all of it."""
        kept = range(self.axis, values.dim() if self.on else self.axis + 1)
        return values[tuple(slice(None) if axis in kept else slice(1) for axis in range(values.dim()))]
