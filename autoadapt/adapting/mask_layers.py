"""Layers that masks take part in. Imports torch alone, so that source can inline them."""

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
    """Where tokens count, in truth values; None where all do, as without a mask.

    Args:
        mask: Zeros and ones, or truth values, or what is added to scores of attention;
            its last axis lists tokens. Or lengths `[B]`.
        size: How many tokens there are.
        form: `truth`, `added` or `lengths`, which are shares of all where they are no
            integers.
        counts: Whether ones stand at what counts, or at what is hidden.
        shared: Whether the mask is one for all items, `[N, N]`.

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
        mask, counts = mask > -100, True  # what is below adds nothing to a softmax
    table = mask != 0 if counts else mask == 0
    table = table[None] if shared else table
    return table.flatten(1, -2).any(1) if table.dim() > 2 else table


def thin_mask(
    counting_BN: torch.Tensor | None,
    first: int,
    step: int,
) -> torch.Tensor | None:
    """What counts among frames: those that there would be without the samples behind.

    Args:
        counting_BN: Truth values; None where all count.
        first: The last sample without which there would be no first frame.
        step: From one frame to the next, in samples.

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
    """What counts, which is everything where there is no mask.

    Args:
        counting_BN: Truth values; None where all count.
        like: Any tensor on the device.
        sizes: How many samples and tokens there are.
    """
    if counting_BN is None:
        return torch.ones(sizes, dtype=torch.bool, device=like.device)
    return counting_BN


def fit_mask(counting_BN: torch.Tensor | None, size: int) -> torch.Tensor | None:
    """What counts among frames of another number: those with any sample that does.

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
    """Ones where values count and zeros elsewhere, to be averaged as the values are.

    Args:
        values: `[B, ...]`, with N, and tokens in front of these, at the axis; or
            `[N, B, ...]` where that is the first.
        counting_BN: Truth values; None where all count.
        axis: That lists tokens.
        front: How many tokens stand in front of them, which count always.
        behind: How many stand behind them.

    Shape:
        As the values, with 1 in the place of all axes but that of tokens, and of B.
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
    """Values with zeros where nothing counts.

    Shape:
        `[B, ..., N, ...] -> [B, ..., N, ...]`
    """
    return values.masked_fill(ones == 0, 0)


def last_counted(
    values: torch.Tensor,
    ones: torch.Tensor,
    axis: int,
) -> torch.Tensor:
    """The last of each sample's tokens that counts; the first where none does.

    Args:
        values: Tokens.
        ones: Ones where they count and zeros elsewhere, with 1 in the place of all axes
            but those of samples and tokens.
        axis: That lists tokens.

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
    """Averages over what counts, from those that take the rest for zeros.

    Args:
        values: Averages of values that are zero where nothing counts.
        share: How much of each average counts; where nothing does, it is zero.
    """
    return values / share.clamp(min=1e-6)


def as_mask(
    counting_BN: torch.Tensor | None,
    sizes: list[int],
    dtype: torch.dtype,
    form: str = "truth",
    counts: bool = True,
) -> torch.Tensor | None:
    """What counts as a mask of another form.

    Args:
        counting_BN: Truth values; None where all count.
        sizes: Of the mask.
        dtype: Of the mask.
        form: `truth`, `added` or `lengths`, which are shares of all where they are no
            integers.
        counts: Whether ones stand at what counts, or at what is hidden.

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
