"""Counted tokens: what a mask of the old module leaves to be averaged or shown, and such masks in another form."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.signature import Mask, Returned

__all__ = ["Averaging", "Counted", "Hide", "Remask", "where_text"]


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


class Averaging(MadeByHand):
    """What averages."""

    where: Counted | None = Field(default=None, exclude_if=lambda where: where is None)
    """What of it counts; None where everything does."""


class Hide(MadeByHand):
    """Zeros where a mask hides tokens, as the old module had them."""

    op: Literal["hide"] = "hide"
    where: Counted

    def __str__(self) -> str:
        return f"zero but{where_text(self.where)}"


class Remask(MadeByHand):
    """A mask of the old module in the form and with the meaning of the new one's."""

    op: Literal["remask"] = "remask"
    given: Mask
    wanted: Mask
    dtype: str
    dims: tuple[Dim, ...]
    returned: Returned | None = Field(default=None, exclude_if=lambda returned: returned is None)
    """How the old module returned it, for its frames, also where it was not given one; None where it is taken."""

    def __str__(self) -> str:
        same = (self.given.form, self.given.counts) == (self.wanted.form, self.wanted.counts)
        turned = self.given.form == self.wanted.form == "truth" and not same
        return "inverted" if turned else f"{self.wanted.argument} {self.given.where}"


def where_text(where: Counted | None) -> str:
    """What of an average counts, for tables."""
    return f" {where.mask.where}" if where is not None else ""
