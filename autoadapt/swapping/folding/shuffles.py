"""Shuffles: channels spread over several axes and put together in another order, as by view, transpose and view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch

from autoadapt.swapping.folding.statements import NotLinearError, Shuffle, Statement

ORDERING = frozenset(
    {"view", "reshape", "permute", "transpose", "flatten", "unflatten", "swapaxes", "swapdims", "movedim", "moveaxis"}
    | {"__getitem__", "chunk", "split", "split_with_sizes", "tensor_split", "narrow", "select", "unbind", "contiguous"}
)
"""Functions that move values or leave some out, and change none."""


def shuffled(stated: Statement, tensor: torch.Tensor, function: Callable[[torch.Tensor], Any]) -> tuple[Statement, ...]:
    """What is known of what a function makes of a tensor: its channels in another order, or still spread over axes.

    Numbers of all places go through the function in the tensor's stead.

    Raises:
        NotLinearError: Channels are merged with places.
    """
    if stated.outer != 1 or stated.inner != 1:
        raise NotLinearError("it mixes channels with places")
    before = stated.shuffle
    if before is None:
        numbers = torch.arange(tensor.numel(), device=tensor.device).reshape(tensor.shape)
        before = Shuffle(tuple(tensor.shape), numbers)
    made = function(before.numbers)
    parts = [made] if isinstance(made, torch.Tensor) else list(made)
    return tuple(_settled(stated, Shuffle(before.shape, part)) for part in parts)


def _settled(stated: Statement, shuffle: Shuffle) -> Statement:
    """The statement of channels that stand on their axis again, every place where it was; else the shuffle is noted."""
    rows = _rows(shuffle, stated.axis)
    return replace(stated, shuffle=shuffle) if rows is None else replace(stated.of_rows(rows), shuffle=None)


def _rows(shuffle: Shuffle, axis: int) -> Sequence[int] | None:
    """Which channels stand along the axis, where all places are as they were; None where they are not."""
    shape, numbers = shuffle.shape, shuffle.numbers
    if numbers.dim() != len(shape) or numbers.numel() == 0:
        return None
    first = numbers.movedim(axis, 0).reshape(numbers.shape[axis], -1)[:, 0]
    rows = first // prod(shape[axis + 1 :]) % shape[axis]
    wanted = torch.arange(prod(shape), device=numbers.device).reshape(shape).index_select(axis, rows)
    return rows.tolist() if wanted.shape == numbers.shape and torch.equal(wanted, numbers) else None
