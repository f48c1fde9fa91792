"""Likely masks: which tensors may be masks for other inputs, by their shapes and values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from autoadapt.contracts.capturing.graph_sizes import as_graphs

# Dimension letters: B batch, N tokens or samples.


def is_binary(tensor: torch.Tensor) -> bool:
    """Whether a tensor `[B, N]` may be a mask by its values: booleans, or zeros and ones, but not zeros alone.

    Example:
        >>> is_binary(torch.tensor([[1, 1, 0]])), is_binary(torch.tensor([[1, 2, 0]]))
        (True, False)
    """
    return tensor.dim() == 2 and is_table(tensor)


def is_table(tensor: torch.Tensor) -> bool:
    """The same for a tensor of two axes or more, such as one for each pair of tokens."""
    if tensor.dim() < 2 or tensor.shape[-1] < 2:
        return False
    if tensor.dtype is torch.bool or tensor.is_meta:
        return tensor.dtype is torch.bool
    return not tensor.is_complex() and bool(((tensor == 0) | (tensor == 1)).all() and tensor.any())


def is_added(tensor: torch.Tensor) -> bool:
    """Whether a tensor may be added to attention scores: it holds zeros and large negative numbers.

    Zeros alone are allowed where its shape is that of a mask for pairs of tokens.

    Example:
        >>> is_added(torch.tensor([[0.0, -1e9]])), is_added(torch.tensor([[0.0, -1.0]])), is_added(torch.zeros(2, 8))
        (True, False, False)
    """
    if not 2 <= tensor.dim() <= 4 or tensor.shape[-1] < 2 or not tensor.is_floating_point() or tensor.is_meta:
        return False
    return bool(((tensor == 0) | (tensor <= FAR_BELOW)).all()) and (bool(tensor.any()) or _lists_pairs(tensor))


FAR_BELOW = -100
"""Scores below this have no weight in a softmax."""


def may_hide(tensor: torch.Tensor) -> bool:
    """Whether a tensor may be a mask by its shape and values, for tokens or for pairs of them."""
    return is_binary(tensor) or is_added(tensor) or (_lists_pairs(tensor) and is_table(tensor))


def _lists_pairs(tensor: torch.Tensor) -> bool:
    """Whether the last two axes of a tensor may be queries and keys: of one size, or one row for all queries."""
    shape = tensor.shape
    return (
        len(shape) > 1
        and shape[-2] in (1, shape[-1])
        and (len(shape) < 4 or shape[1] == 1)
        and len(shape) + (shape[-2] != 1) > 2
    )


def is_of_pairs(tensor: torch.Tensor, others: Sequence[torch.Tensor]) -> bool:
    """Whether a tensor may be a mask for pairs of another's tokens, or one row for all of these."""
    if not may_hide(tensor) or not _lists_pairs(tensor):
        return False
    return any(other.dim() in (2, 3) and other.shape[1] == tensor.shape[-1] for other in others)


def may_be_lengths(tensor: torch.Tensor, size: int) -> bool:
    """Whether a tensor `[B]` may hold the number of tokens of each item that count, or their share."""
    if tensor.dim() != 1 or not tensor.numel() or tensor.is_meta or tensor.dtype is torch.bool or tensor.is_complex():
        return False
    most = 1 if tensor.is_floating_point() else size
    return bool((tensor > 0).all() and (tensor <= most).all())


def with_lengths(made: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Resized tensors, where lengths follow the new size, and nodes belong to as many graphs as before.

    Args:
        made: The resized tensors.
        given: The tensors before resizing.
    """
    changed = {old.shape[1]: new.shape[1] for old, new in zip(given, made, strict=True) if old.dim() > 1}
    return as_graphs([_with_length(one, changed) for one in made], given)


def _with_length(tensor: torch.Tensor, changed: Mapping[int, int]) -> torch.Tensor:
    for size, wanted in changed.items() if tensor.dim() == 1 and not tensor.is_floating_point() else ():
        if size != wanted and may_be_lengths(tensor, size) and tensor.max() == size:
            return torch.where(tensor == size, wanted, tensor.clamp(max=wanted))
    return tensor
