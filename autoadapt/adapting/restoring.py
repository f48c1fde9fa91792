"""Restoring values: what brings vectors back to what held of the old ones, and when that is needed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Restore"]


class Restore(BaseModel):
    """Vectors along an axis made to have norm 1, or to be probabilities, by a softmax."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    op: Literal["restore"] = "restore"
    what: Literal["norm 1", "probabilities"]
    axis: int

    def __str__(self) -> str:
        return f"{'norm 1' if self.what == 'norm 1' else 'softmax'} over axis {self.axis}"
