"""Layers that read masks. Standalone source inlines them, so this file imports torch only.

`counting` is a mask as booleans, True for tokens that count and not for those that are hidden; None without a mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = [
    "all_counted",
    "as_mask",
    "counted_tokens",
    "fit_mask",
    "last_counted",
    "per_share",
    "thin_mask",
    "what_counts",
    "without_hidden",
]

# Dimension letters: B batch, N tokens or samples, M frames.
# Functions stay below 88 columns: they are inlined into files that other people format.


def what_counts(
    mask: torch.Tensor | None,
    size: int,
    form: str = "truth",
    counts: bool = True,
    shared: bool = False,
) -> torch.Tensor | None:
    """Which tokens count, as booleans; None without a mask, where all do.

    Args:
        mask: Zeros and ones, booleans, or numbers to add to attention scores; its last
            axis lists tokens. Or lengths `[B]`.
        size: The number of tokens.
        form: `truth`, `added` or `lengths`; lengths that are no integers are fractions.
        counts: Whether a one means that a token counts, and not that it is hidden.
        shared: Whether one mask `[N, N]` is for all items of the batch.

    Shape:
        `[B, N]`, `[B, ..., N]`, `[N, N]` or `[B] -> [B, N]`; a token counts if any other
        may read it. Where the mask is shared, B is 1.
    """
    if mask is None:
        return None
    if form == "lengths":
        lengths = (mask * size).round() if mask.is_floating_point() else mask
        return torch.arange(size, device=mask.device) < lengths[:, None]
    if form == "added":
        mask, counts = mask > -100, True  # lower scores have no weight in a softmax
    table = mask != 0 if counts else mask == 0
    table = table[None] if shared else table
    return table.flatten(1, -2).any(1) if table.dim() > 2 else table


def thin_mask(
    counting_BN: torch.Tensor | None,
    first: int,
    step: int,
) -> torch.Tensor | None:
    """Which frames count: those computed only from samples that count.

    Args:
        counting_BN: Which samples count; None where all do.
        first: Index of the last sample of the first frame.
        step: Samples from one frame to the next.

    Shape:
        `[B, N] -> [B, M]`, with `M = (N - first - 1) // step + 1`
    """
    if counting_BN is None:
        return None
    return counting_BN[:, first::step].contiguous()


def all_counted(
    counting_BN: torch.Tensor | None,
    like: torch.Tensor,
    sizes: list[int],
) -> torch.Tensor:
    """Which tokens count, as a tensor even where all do.

    Args:
        counting_BN: Which tokens count; None where all do.
        like: Any tensor on the device.
        sizes: The sizes B and N.
    """
    if counting_BN is None:
        return torch.ones(sizes, dtype=torch.bool, device=like.device)
    return counting_BN


def fit_mask(counting_BN: torch.Tensor | None, size: int) -> torch.Tensor | None:
    """Which of M frames count, of equal length: those with any sample that does.

    Shape:
        `[B, N] -> [B, M]`
    """
    if counting_BN is None:
        return None
    return F.adaptive_max_pool1d(counting_BN.float()[:, None], size)[:, 0] > 0


def counted_tokens(
    values: torch.Tensor,
    counting_BN: torch.Tensor | None,
    axis: int,
    front: int = 0,
    behind: int = 0,
) -> torch.Tensor:
    """Ones where tokens count and zeros elsewhere, to be averaged as the values are.

    Args:
        values: `[B, ..., front + N + behind, ...]`; or `[N, B, ...]` for axis 0.
        counting_BN: Which of N tokens count; None where all do.
        axis: The axis that lists tokens.
        front: Tokens in front of these, which always count.
        behind: Tokens behind these, which always count.

    Shape:
        As the values, with size 1 on all axes but those of samples and tokens.
    """
    shape = [1] * values.dim()
    samples = 1 if axis == 0 else 0
    shape[samples], shape[axis] = values.shape[samples], values.shape[axis]
    if counting_BN is None:
        return values.new_ones(shape)
    if front or behind:
        counting_BN = F.pad(counting_BN, (front, behind), value=True)
    counted = counting_BN.expand(values.shape[samples], -1).to(values.dtype)
    return (counted.T if axis == 0 else counted).reshape(shape)


def without_hidden(values: torch.Tensor, ones: torch.Tensor) -> torch.Tensor:
    """Values with zeros at hidden tokens; `ones` as from `counted_tokens`.

    Shape:
        `[B, ..., N, ...] -> [B, ..., N, ...]`
    """
    return values.masked_fill(ones == 0, 0)


def last_counted(
    values: torch.Tensor,
    ones: torch.Tensor,
    axis: int,
) -> torch.Tensor:
    """The last token of each sample that counts; the first where none does.

    Args:
        values: The tokens.
        ones: Ones where they count, zeros elsewhere, as from `counted_tokens`.
        axis: The axis that lists tokens.

    Shape:
        `[B, ..., N, ...] -> [B, ..., ...]`
    """
    places = torch.arange(1, values.shape[axis] + 1, device=values.device)
    shape = [1] * values.dim()
    shape[axis] = -1
    index = (ones.bool() * places.view(shape)).argmax(axis, keepdim=True)
    sizes = [*values.shape]
    sizes[axis] = 1
    return values.gather(axis, index.expand(sizes)).squeeze(axis)


def per_share(values: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Averages over tokens that count, from averages with zeros for all others.

    Args:
        values: Averages of values that are zero at hidden tokens.
        share: The same averages of `ones`: the fraction of each that counts.
    """
    return values / share.clamp(min=1e-6)


def as_mask(
    counting_BN: torch.Tensor | None,
    sizes: list[int],
    dtype: torch.dtype,
    form: str = "truth",
    counts: bool = True,
) -> torch.Tensor | None:
    """A mask in another form; None where all tokens count.

    Args:
        counting_BN: Which tokens count; None where all do.
        sizes: The sizes of the mask.
        dtype: The dtype of the mask.
        form: `truth`, `added` or `lengths`; lengths that are no integers are fractions.
        counts: Whether a one means that a token counts, and not that it is hidden.

    Shape:
        `[B, N] -> sizes`
    """
    if counting_BN is None:
        return None
    if form == "lengths":
        counted = counting_BN.sum(1).to(dtype)
        if counted.is_floating_point():
            return counted / counting_BN.shape[1]
        return counted
    middle = [1] * (len(sizes) - 2)
    table = counting_BN.reshape(len(counting_BN), *middle, -1).expand(sizes)
    if form == "truth":
        return (table if counts else table.logical_not()).to(dtype)
    shown = torch.zeros(sizes, dtype=dtype, device=table.device)
    return shown.masked_fill(table.logical_not(), torch.finfo(dtype).min)
