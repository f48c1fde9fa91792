"""Layers for tokens `[B, N, C]`: cells of an image or clip among other tokens. Standalone source inlines them."""

from __future__ import annotations

import torch

from autoadapt.adapting.layers import pool, resample, resize

__all__ = ["lead_with_mean", "resize_tokens"]

# Functions stay below 88 columns: they are inlined into files that other people format.


def resize_tokens(
    tokens_BNC: torch.Tensor,
    leading: int,
    grid: list[int],
    sizes: list[int],
    kernel: list[int] | None = None,
    order: list[int] | None = None,
    first: list[float] | None = None,
    step: list[float] | None = None,
    trailing: int = 0,
) -> torch.Tensor:
    """Linear interpolation of the cells between other tokens, which stay as they are.

    Args:
        tokens_BNC: The tokens.
        leading: The number of tokens before the cells.
        grid: Cells along each side, from the slowest to the fastest.
        sizes: The wanted cells along each side, from the slowest to the fastest.
        kernel: Cells along each wanted side that are averaged before.
        order: For each wanted side its index in `grid`, where the orders differ.
        first: For each wanted side the centre of its first cell, as in `resample`; cells
            are stretched over the whole side without.
        step: For each wanted side the step from one centre to the next.
        trailing: The number of tokens behind the cells.

    Shape:
        `[B, leading + prod(grid) + trailing, C] -> [B, leading + prod(sizes) + trailing, C]`
    """
    listed, parts = tokens_BNC[:, leading:], [tokens_BNC[:, :leading]]
    if trailing > 0:
        listed = listed[:, :-trailing]
    cells = torch.unflatten(listed.transpose(1, 2), 2, grid)
    if order is not None:
        cells = cells.permute([0, 1] + [2 + side for side in order])
    if kernel is not None:
        cells = pool(cells, kernel)
    if first is not None and step is not None:
        cells = resample(cells, first, step, sizes)
    if first is None:
        cells = resize(cells, sizes)
    parts.append(cells.flatten(2).transpose(1, 2))
    if trailing > 0:
        parts.append(tokens_BNC[:, -trailing:])
    return torch.cat(parts, 1)


def lead_with_mean(tokens_BNC: torch.Tensor) -> torch.Tensor:
    """The tokens with their mean in front, in place of a class token.

    Shape:
        `[B, N, C] -> [B, 1 + N, C]`
    """
    return torch.cat([tokens_BNC.mean(1, keepdim=True), tokens_BNC], 1)
