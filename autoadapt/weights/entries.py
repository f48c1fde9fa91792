"""An entry: what became of one tensor. Each tensor of either side has exactly one entry."""

from __future__ import annotations

from typing import Literal, TypeAlias

from autoadapt.contracts.facts import MadeByHand

SourceBucket: TypeAlias = Literal["loaded", "converted", "mismatched", "held", "excluded", "unexpected"]
ModelBucket: TypeAlias = Literal["loaded", "missing", "mismatched", "held"]
"""Held: it fits, but what it belongs to does not come."""


class SourceEntry(MadeByHand):
    """What became of a tensor of the checkpoint.

    Args:
        name: Its key.
        shape: Its shape.
        dtype: Its dtype.
        bucket: What became of it.
        target: The tensor of the model it belongs to, where that was found.
        stage: How the names were brought together.
        how: How it was converted, or why it was not taken.
        expected: Whether the caller, or common sense, knew that it would not be taken.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bucket: SourceBucket
    target: str | None = None
    stage: str = ""
    how: str = ""
    expected: bool = False


class ModelEntry(MadeByHand):
    """What became of a tensor of the model.

    Args:
        name: Its key.
        shape: Its shape.
        dtype: Its dtype.
        bucket: What became of it.
        source: The tensor of the checkpoint that belongs here, where one was found.
        parameter: Whether it is a parameter, not a buffer.
        numel: Its elements; none where it is another name of a tensor that was counted.
        taken: The elements that came from the checkpoint.
        how: How it was converted, what it is tied to, or why it was left.
        expected: Whether it was known that it would be left.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bucket: ModelBucket
    source: str | None = None
    parameter: bool = True
    numel: int = 0
    taken: int = 0
    how: str = ""
    expected: bool = False
