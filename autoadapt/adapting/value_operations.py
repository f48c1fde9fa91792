"""Operations on values, which leave the axes of a tensor as they are."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Invert", "Restore"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Invert(_Frozen):
    """True where there was zero: a mask of what is hidden for one of what counts, or the other way round."""

    op: Literal["invert"] = "invert"


class Restore(_Frozen):
    """Vectors along an axis made to have norm 1, or to be probabilities, by a softmax."""

    op: Literal["restore"] = "restore"
    what: Literal["norm 1", "probabilities"]
    axis: int

    def __str__(self) -> str:
        return f"{'norm 1' if self.what == 'norm 1' else 'softmax'} over axis {self.axis}"
