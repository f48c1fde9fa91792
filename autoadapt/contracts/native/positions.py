"""Position embeddings that were learned on one grid, for another."""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["resampled_map", "resampled_tokens"]

# Dimension letters: D channels, N tokens, R rows, C columns.


def resampled_tokens(embedding_1ND: torch.Tensor, rows: int, columns: int, prefix: int = 0) -> torch.Tensor:
    """A position embedding of a square grid behind some prefix tokens, for another grid.

    Shape:
        `[1, prefix + side*side, D] -> [1, prefix + rows*columns, D]`
    """
    side = int((embedding_1ND.shape[1] - prefix) ** 0.5)
    cells = torch.unflatten(embedding_1ND[:, prefix:].permute(0, 2, 1), 2, (side, side))
    rest = resampled_map(cells, rows, columns).flatten(2).permute(0, 2, 1)
    return torch.cat([embedding_1ND[:, :prefix], rest], dim=1) if prefix else rest


def resampled_map(embedding_1DRC: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A position embedding of a grid for another grid; the same values where it is its own.

    Bicubic with antialiasing, as timm resamples them. At scale one all weights are 0 or 1; to leave the work out
    there would be a branch, and exported programs of other sizes would refuse this one.

    Shape:
        `[1, D, R, C] -> [1, D, rows, columns]`
    """
    cells = embedding_1DRC.float()
    moved = F.interpolate(cells, (rows, columns), mode="bicubic", antialias=True, align_corners=False)
    return moved.to(embedding_1DRC.dtype)
