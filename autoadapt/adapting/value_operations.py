"""Operations on values: what holds of them is restored, and a token is made of others."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.signature.held_values import What

__all__ = ["ACTIVATIONS", "Lead", "Restore"]

ACTIVATIONS = {"between 0 and 1": "sigmoid", "between -1 and 1": "tanh"}
"""What brings values within bounds, as torch calls it."""


class Restore(MadeByHand):
    """Vectors along an axis made to have norm 1, or to be probabilities or their logarithms, by a softmax.

    Or all values brought between 0 and 1 by a sigmoid, between -1 and 1 by tanh.
    """

    op: Literal["restore"] = "restore"
    what: What
    axis: int = 1
    on: bool = Field(default=False, exclude_if=lambda on: not on)
    """Whether the axes behind it belong to the vectors too."""

    def __str__(self) -> str:
        if self.what in ACTIVATIONS:
            return ACTIVATIONS[self.what]
        made = {"probabilities": "softmax", "log-probabilities": "log softmax"}.get(self.what, self.what)
        return f"{made} over axis {self.axis}{' on' * self.on}"


class Lead(MadeByHand):
    """The mean of all cells before them, `[B, N, C] -> [B, 1 + N, C]`: a class token where there is none."""

    op: Literal["lead"] = "lead"

    def __str__(self) -> str:
        return "mean of cells first"
