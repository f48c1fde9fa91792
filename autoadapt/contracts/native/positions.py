"""Position embeddings that were learned on one grid, resampled for another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

# Dimension letters: D channels, N tokens, P pairs of cells, M heads, R rows, C columns.


def resampled_tokens(embedding_1ND: torch.Tensor, rows: int, columns: int, prefix: int = 0) -> torch.Tensor:
    """A position embedding of prefix tokens and a square grid, resampled for another grid.

    Shape:
        `[1, prefix + side*side, D] -> [1, prefix + rows*columns, D]`
    """
    side = int((embedding_1ND.shape[1] - prefix) ** 0.5)
    cells = torch.unflatten(embedding_1ND[:, prefix:].permute(0, 2, 1), 2, (side, side))
    rest = resampled_map(cells, rows, columns).flatten(2).permute(0, 2, 1)
    return torch.cat([embedding_1ND[:, :prefix], rest], dim=1) if prefix else rest


def resampled_map(embedding_1DRC: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A position embedding of a grid, resampled for another grid; the same values where that is the same.

    Bicubic with antialiasing, as in timm. At scale one all weights are 0 or 1. A branch for that case would be a guard
    in exported programs, which would then refuse this one size.

    Shape:
        `[1, D, R, C] -> [1, D, rows, columns]`
    """
    cells = embedding_1DRC.float()
    moved = F.interpolate(cells, (rows, columns), mode="bicubic", antialias=True, align_corners=False)
    return moved.to(embedding_1DRC.dtype)


def relative_biases(table_PM: torch.Tensor, window: Sequence[int], rows: int, columns: int) -> torch.Tensor:
    """Relative position biases of attention, learned for one window, resampled for another grid.

    As in BEiT: the last three rows of the table are for class token to cells, cells to class token, and itself.

    Shape:
        `[(2*window[0] - 1)*(2*window[1] - 1) + 3, M] -> [1, M, 1 + rows*columns, 1 + rows*columns]`
    """
    learned = [2 * side - 1 for side in window]
    distances = resampled_map(torch.unflatten(table_PM[:-3].t(), 1, learned)[None], 2 * rows - 1, 2 * columns - 1)[0]
    row, column = (
        torch.arange(count, device=table_PM.device).unsqueeze(1 - axis).expand(rows, columns).reshape(-1)
        for axis, count in enumerate((rows, columns))
    )
    down, right = row[:, None] - row + rows - 1, column[:, None] - column + columns - 1
    cells_MNN = distances.flatten(1)[:, down * (2 * columns - 1) + right]
    to_cells, to_token, own = (table_PM[place][:, None, None] for place in (-3, -2, -1))
    first = torch.cat([own, to_cells.expand(-1, 1, rows * columns)], dim=2)
    rest = torch.cat([to_token.expand(-1, rows * columns, 1), cells_MNN], dim=2)
    return torch.cat([first, rest], dim=1)[None]
