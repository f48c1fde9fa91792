"""Transformers that list the cells of an image as tokens in other ways than rows behind a class token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

# Dimension letters: B batch, C channels, H rows of cells, W columns of cells, N tokens.
Way = Literal["rows", "columns", "windows"]
PATCH = 8


class Block(nn.Module):
    """A residual block of two layers that mixes tokens a little."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand, self.reduce = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, tokens_BNC: torch.Tensor) -> torch.Tensor:
        mixed = tokens_BNC + 0.05 * tokens_BNC.mean(1, keepdim=True)
        return mixed + 0.3 * self.reduce(torch.relu(self.expand(mixed)))


class Listed(nn.Module):
    """Patches of 8 pixels as tokens.

    Args:
        way: In which order the cells stand; windows have 2 x 2 cells.
        before: Class tokens before the cells.
        behind: Class tokens behind them.
        axes: The order of the axes that are returned: `bnc`, `nbc` or `bcn`.
        size: The one legal height and width; any multiples of 16 where left out.
        blocks: How many blocks there are.
        finer: Interpolate the cells to so many times as many a side.
    """

    def __init__(
        self,
        way: Way = "rows",
        before: int = 0,
        behind: int = 0,
        axes: str = "bnc",
        size: tuple[int, int] | None = None,
        blocks: int = 3,
        finer: int = 1,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way, self.before, self.behind, self.axes, self.size = way, before, behind, axes, size
        self.finer = finer
        self.embed = nn.Conv2d(3, 12, PATCH, PATCH)
        self.first = nn.Parameter(torch.randn(1, before, 12))
        self.last = nn.Parameter(torch.randn(1, behind, 12))
        self.blocks = nn.Sequential(*[Block(12) for _ in range(blocks)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            raise ValueError(f"expected {self.size}")
        map_BCHW = self.embed(x)
        if self.finer > 1:
            map_BCHW = nn.functional.interpolate(map_BCHW, scale_factor=self.finer, mode="bilinear")
        first, last = (one.expand(len(x), -1, -1) for one in (self.first, self.last))
        tokens_BNC = self.blocks(torch.cat([first, self.listed(map_BCHW), last], 1))
        return tokens_BNC.permute([("bnc").index(axis) for axis in self.axes])

    def listed(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        """The cells as tokens `[B, N, C]`."""
        if self.way == "windows":
            batch, channels, height, width = map_BCHW.shape
            parts = map_BCHW.reshape(batch, channels, height // 2, 2, width // 2, 2)
            return parts.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, channels)
        cells = map_BCHW.transpose(2, 3) if self.way == "columns" else map_BCHW
        return cells.flatten(2).transpose(1, 2)

    def map_of(self, returned: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """What was returned as a map `[B, C, H, W]`, each cell in its place."""
        tokens_BNC = returned.permute([self.axes.index(axis) for axis in "bnc"])
        cells_BCN = tokens_BNC[:, self.before : self.before + height * width].transpose(1, 2)
        if self.way == "columns":
            return cells_BCN.unflatten(2, (width, height)).transpose(2, 3)
        return cells_BCN.unflatten(2, (height, width))
