"""Other ranks: an image as a clip, a clip as an image, and clips with frames and channels exchanged."""

from __future__ import annotations

from collections.abc import Iterator

import torch

FRAMES = (1, 16, 8, 32)
"""Usual numbers of frames, the cheapest first."""


def other_ranks(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """An image or clip with another number of axes, or a clip with its frames on another axis.

    Example:
        >>> [tuple(one.shape) for one in other_ranks(torch.zeros(2, 3, 8, 64, 64))]
        [(2, 8, 3, 64, 64), (2, 3, 64, 64), (2, 8, 64, 64), (2, 64, 8, 64)]
        >>> [tuple(one.shape) for one in other_ranks(torch.zeros(2, 3, 64, 64))][:2]
        [(2, 3, 1, 64, 64), (2, 1, 3, 64, 64)]
    """
    if x.dim() == 5:
        yield x.transpose(1, 2)
        yield from (x[:, :, 0], x[:, 0], x[:, 0].movedim(-1, 1))
    elif x.dim() == 4:
        for frames in FRAMES:
            yield x.unsqueeze(2).expand(-1, -1, frames, -1, -1)
            yield x.unsqueeze(1).expand(-1, frames, -1, -1, -1)
