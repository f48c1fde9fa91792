"""Layers that masks take part in. Imports torch alone, so that source can inline them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["masked_mean", "thin_mask"]

# Dimension letters: B batch, N tokens or samples, M frames.
# Functions stay below 88 columns: they are inlined into files that other people format.


def masked_mean(
    values: torch.Tensor,
    mask_BN: torch.Tensor | None,
    axis: int,
    counts: bool = True,
) -> torch.Tensor:
    """The mean over an axis of what counts; over all where there is no mask.

    Args:
        values: `[B, ...]`, with N at the axis.
        mask_BN: Zeros and ones, or truth values; None where everything counts.
        axis: That is averaged over.
        counts: Whether ones stand at what counts, or at what is hidden.

    Shape:
        `[B, ..., N, ...] -> [B, ..., ...]`

    Raises:
        ValueError: The mask is not one of two axes.
    """
    if mask_BN is None:
        return values.mean(axis)
    if mask_BN.dim() != 2:
        raise ValueError(f"a mask has two axes, [B, N], not {mask_BN.dim()}")
    hidden_BN = mask_BN == 0 if counts else mask_BN != 0
    shape = [1] * values.dim()
    shape[0], shape[axis] = hidden_BN.shape
    hidden = hidden_BN.view(shape)
    share = hidden.logical_not().to(values.dtype).mean(axis)
    least = 1 / values.shape[axis]  # where all is hidden, the mean is zero
    return values.masked_fill(hidden, 0).mean(axis) / share.clamp(min=least)


def thin_mask(
    mask_BN: torch.Tensor | None,
    size: int,
    counts: bool = True,
) -> torch.Tensor | None:
    """A mask of samples as one of fewer frames: a frame counts if any of its samples does.

    Shape:
        `[B, N] -> [B, M]`
    """
    if mask_BN is None:
        return None
    counting_BN = mask_BN != 0 if counts else mask_BN == 0
    counting_BM = F.adaptive_max_pool1d(counting_BN.float()[:, None], size)[:, 0]
    kept_BM = counting_BM > 0 if counts else counting_BM == 0
    return kept_BM.to(mask_BN.dtype)
