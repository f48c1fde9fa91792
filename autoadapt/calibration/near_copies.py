"""Near copies: images that show the same thing, such as crops of one photograph, count once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

__all__ = ["DESCRIBED", "WANTED", "count_different", "descriptors", "near_copies", "remark_on"]

DESCRIBED = 512
"""Images that are described; of more the share is taken."""
WANTED = 64
"""Different images below which figures and fit are unsure."""
ABOUT = 0.9
"""A few that are alike by chance are no reason for a remark."""
ALIKE = 0.85
"""Cosine between what deep features say of two images, less what they say of all.

Measured on EfficientNet-Lite's last level: of 2,000 pairs of different photographs none is above 0.7, those of crops of
one photograph are at 0.89 in the middle; 64 crops of 16 photographs count as 28, 64 digits as 58.
"""
FEWEST_CHANNELS = 32
"""With fewer, features of different images are alike by chance, and only repeated images are copies."""
REPEATED = 1e-5
"""How far what is said of repeated images is apart, in standard deviations: batches round differently."""

# Dimension letters: B and N images, T tokens of an image, D channels.


def descriptors(tokens: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor, object]]]) -> torch.Tensor:
    """What the old features say of each image: their mean over its places, of the output with most channels.

    Args:
        tokens: For each output and call, what goes into a projection and what should come out, `[B, T, D]`.

    Shape:
        `[B, D]`
    """
    widest = max((calls[0][1] for calls in tokens), key=lambda wanted_BTD: wanted_BTD.shape[-1])
    return widest.float().mean(1).cpu()


def near_copies(described: Mapping[int, torch.Tensor]) -> dict[int, int]:
    """For each image, the first that it is a copy of, over any number of copies between.

    Args:
        described: What is said of each image, by its number.

    Example:
        >>> words = torch.eye(40)[[0, 0, 1, 2]] + 0.001 * torch.rand(4, 40)
        >>> near_copies(dict(enumerate(words)))
        {0: 0, 1: 0, 2: 2, 3: 3}
    """
    numbers = sorted(described)
    first = {number: number for number in numbers}
    if len(numbers) < 3:  # of two images nothing is left when what is said of both is taken off
        return first
    said_ND = torch.stack([described[number] for number in numbers]).double()
    said_ND = said_ND - said_ND.mean(0)
    for left, right in torch.nonzero(torch.triu(_alike(said_ND), diagonal=1)).tolist():
        kept, merged = sorted((first[numbers[left]], first[numbers[right]]))
        if kept != merged:
            first = {number: kept if group == merged else group for number, group in first.items()}
    return first


def _alike(said_ND: torch.Tensor) -> torch.Tensor:
    """Which of them say the same, `[N, N]`."""
    if said_ND.shape[1] >= FEWEST_CHANNELS:
        said_ND = F.normalize(said_ND, dim=1)
        return said_ND @ said_ND.T > ALIKE
    spread = said_ND.square().mean().sqrt()
    return torch.cdist(said_ND, said_ND, compute_mode="donot_use_mm_for_euclid_dist") <= REPEATED * spread


def count_different(groups: Mapping[int, int], images: int) -> int:
    """How many of so many images differ, by those that were described; all where none were."""
    return round(images * len(set(groups.values())) / len(groups)) if groups else images


def remark_on(different: int, images: int) -> str:
    """What to say where there are few; empty where there are not."""
    if different >= ABOUT * WANTED:
        return ""
    copies = "" if different == images else f" (of {images}; near copies, such as crops of one, count once)"
    return f"{different} different images{copies}: from about {WANTED} on, fit and figures are sure"
