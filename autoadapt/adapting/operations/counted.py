"""Counted tokens: those that a mask of the old module does not hide."""

from __future__ import annotations

from pydantic import Field

from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.signature import Mask

__all__ = ["Counted", "where_text"]


class Counted(MadeByHand):
    """Which tokens of an axis count: those that a mask of the old module does not hide."""

    mask: Mask
    axis: int
    """That lists tokens."""
    front: int = Field(default=0, exclude_if=lambda front: not front)
    """How many tokens stand in front of those that the mask knows; these count always."""
    behind: int = Field(default=0, exclude_if=lambda behind: not behind)
    """How many stand behind them."""
    frames: tuple[int, int] | None = Field(default=None, exclude_if=lambda frames: frames is None)
    """Where the mask lies along finer samples: the last one without which there would be no first cell, and how many
    there are from cell to cell."""
    fitted: bool = Field(default=False, exclude_if=lambda fitted: not fitted)
    """Whether cells are so many that the mask is stretched over them: one counts if any sample in it does."""


def where_text(where: Counted | None) -> str:
    """What of an average counts, for tables."""
    return f" {where.mask.where}" if where is not None else ""
