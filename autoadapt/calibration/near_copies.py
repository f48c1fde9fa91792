"""Near copies: images that show the same thing, such as crops of one photograph, count once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

DESCRIBED = 512
"""Images that are described; of more the share is taken."""
WANTED = 64
"""Different images below which figures and fit are unsure."""
ABOUT = 0.9
"""A few that are alike by chance are no reason for a remark."""
ALIKE = (0.65, 0.85)
"""Cosine between what deep features say of two images, less what they say of all: the least and the most of a copy.

Measured on EfficientNet-Lite's last level: of 7,140 pairs of different photographs three are above 0.7; of pairs of
crops of one (half its side or more) nine in ten are above 0.68, of mirrored ones 0.95, of JPEG at quality 50 0.85, and
half of those with noise of 0.1 of the range of values are above 0.7. 32 photographs in four such crops each count as 33
and 32 (with 0.85 alone as 54 and 50). Digits of one class are as alike, since features of small networks say less.
"""
BEYOND_CHANCE = 6
"""Times the median cosine that is taken, within these bounds: it is 0.1 for photographs and 0.25 for digits."""
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
    said_ND = _standardised([described[number] for number in numbers])
    for left, right in torch.nonzero(torch.triu(_alike(said_ND, said_ND), diagonal=1)).tolist():
        kept, merged = sorted((first[numbers[left]], first[numbers[right]]))
        if kept != merged:
            first = {number: kept if group == merged else group for number, group in first.items()}
    return first


def copied_from(number: int, described: Mapping[int, torch.Tensor]) -> int:
    """The first image that one is a near copy of, by what is known of those before it; itself if of none.

    Args:
        number: Of the image.
        described: What is said of it and of those before it, by their numbers.
    """
    others = sorted(described.keys() - {number})
    if len(others) < 2:
        return number
    said_ND = _standardised([described[one] for one in (number, *others)])
    alike = _alike(said_ND[:1], said_ND[1:])[0].nonzero()[:1, 0].tolist()
    return others[alike[0]] if alike else number


def seen(groups: Mapping[int, int], folds: Mapping[int, int]) -> set[int]:
    """Images that have a near copy in another fold, so that what is fitted on the others has seen them.

    Args:
        groups: For each image that was described the first that it is a near copy of.
        folds: The fold of each image.

    Example:
        >>> seen({0: 0, 1: 0, 2: 2, 3: 2}, {0: 0, 1: 0, 2: 1, 3: 3})
        {2, 3}
    """
    parts: dict[int, set[int]] = {}
    for number, first in groups.items():
        parts.setdefault(first, set()).add(folds[number])
    return {number for number, first in groups.items() if len(parts[first]) > 1}


def _standardised(described: Sequence[torch.Tensor]) -> torch.Tensor:
    """Around the mean of all; channels wider than the root mean square come down to it, lest a few drown the rest."""
    said_ND = torch.stack(list(described)).double()
    said_ND = said_ND - said_ND.mean(0)
    widths_D = said_ND.square().mean(0).sqrt()
    wide = float(widths_D.square().mean().sqrt())
    return said_ND / widths_D.clamp_min(wide or 1.0)


def _alike(left_MD: torch.Tensor, right_ND: torch.Tensor) -> torch.Tensor:
    """Which of two say the same, `[M, N]`."""
    if right_ND.shape[1] >= FEWEST_CHANNELS:
        cosines_MN = F.normalize(left_MD, dim=1) @ F.normalize(right_ND, dim=1).T
        return cosines_MN > (BEYOND_CHANCE * cosines_MN.abs().median()).clamp(*ALIKE)
    spread = right_ND.square().mean().sqrt()
    return torch.cdist(left_MD, right_ND, compute_mode="donot_use_mm_for_euclid_dist") <= REPEATED * spread


def count_different(groups: Mapping[int, int], images: int) -> int:
    """How many of so many images differ, by those that were described; all where none were."""
    return round(images * len(set(groups.values())) / len(groups)) if groups else images


def remark_on(different: int, images: int) -> str:
    """What to say where there are few; empty where there are not."""
    if different >= ABOUT * WANTED:
        return ""
    copies = "" if different == images else f" (of {images}; near copies, such as crops of one, count once)"
    return f"{different} different images{copies}: from about {WANTED} on, fit and figures are sure"
