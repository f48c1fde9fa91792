"""Operations on values, which leave the axes of a tensor as they are."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from autoadapt.contracts.facts import MadeByHand

__all__ = ["Restore"]


class _Frozen(MadeByHand):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Restore(_Frozen):
    """Vectors along an axis made to have norm 1, or to be probabilities, by a softmax."""

    op: Literal["restore"] = "restore"
    what: Literal["norm 1", "probabilities"]
    axis: int

    def __str__(self) -> str:
        return f"{'norm 1' if self.what == 'norm 1' else 'softmax'} over axis {self.axis}"
