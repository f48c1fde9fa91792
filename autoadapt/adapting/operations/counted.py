"""Counted: which tokens of a tensor a mask of the old module does not hide."""

from __future__ import annotations

from pydantic import Field

from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.signature import Mask


class Counted(MadeByHand):
    """A mask of the old module, applied to the tokens on one axis of a tensor."""

    mask: Mask
    axis: int
    """The axis that lists tokens."""
    front: int = Field(default=0, exclude_if=lambda front: not front)
    """Tokens in front of those of the mask; they always count."""
    behind: int = Field(default=0, exclude_if=lambda behind: not behind)
    """Tokens behind those of the mask; they always count."""
    frames: tuple[int, int] | None = Field(default=None, exclude_if=lambda frames: frames is None)
    """Where the mask is for samples and the axis lists frames: index of the last sample of the first frame, and samples
    from frame to frame."""
    fitted: bool = Field(default=False, exclude_if=lambda fitted: not fitted)
    """Whether the mask is resized to the number of tokens instead: a token counts if any sample of it does."""


def where_text(where: Counted | None) -> str:
    """Which tokens an average counts, as a text for tables."""
    return f" {where.mask.where}" if where is not None else ""
