"""Networks of clips and volumes: tokens in every order, three-dimensional convolutions, and images."""

from __future__ import annotations

import einops
import torch
from tokens import Block
from torch import nn

# Dimension letters: B batch, T frames, C channels, H rows, W columns, N tokens.


class ListedClip(nn.Module):
    """Blocks of 2 frames and 8 x 8 pixels as tokens, by a linear layer, so that no inner output shows the grid.

    Args:
        order: Axes of the cells from the slowest to the fastest.
        before: Tokens before the cells.
        size: The one legal size, `(frames, height, width)`; any multiples where left out.
        patch: Frames, rows and columns of a token.
        layout: Axes of the input.
    """

    def __init__(
        self,
        order: str = "thw",
        before: int = 0,
        size: tuple[int, int, int] | None = None,
        patch: tuple[int, int, int] = (2, 8, 8),
        layout: str = "b c t h w",
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order, self.before, self.size, self.patch, self.layout = order, before, size, patch, layout
        frames, rows, columns = patch
        self.embed = nn.Linear(3 * frames * rows * columns, 12)
        self.first = nn.Parameter(torch.randn(1, before, 12))
        self.blocks = nn.Sequential(Block(12), Block(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        clip_BCTHW = einops.rearrange(x, f"{self.layout} -> b c t h w")
        if self.size is not None and tuple(clip_BCTHW.shape[2:]) != self.size:
            raise ValueError(f"expected {self.size}")
        frames, rows, columns = self.patch
        pattern = f"b c (t f) (h r) (w k) -> b ({' '.join(self.order)}) (c f r k)"
        tokens_BNC = self.embed(einops.rearrange(clip_BCTHW, pattern, f=frames, r=rows, k=columns))
        return self.blocks(torch.cat([self.first.expand(len(x), -1, -1), tokens_BNC], 1))

    def map_of(self, tokens_BNC: torch.Tensor, **sides: int) -> torch.Tensor:
        """Tokens as a map `[B, C, T, H, W]`, each cell in its place."""
        return einops.rearrange(tokens_BNC[:, self.before :], f"b ({' '.join(self.order)}) c -> b c t h w", **sides)


class Clip3d(nn.Module):
    """Two levels of three-dimensional convolutions: stride 1, 2, 2, then 2, 8, 8."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv3d(3, channels, 3, stride=(1, 2, 2), padding=1)
        self.stage = nn.Conv3d(channels, 2 * channels, 3, stride=(2, 4, 4), padding=1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        fine_BCTHW = torch.relu(self.stem(x))
        return [fine_BCTHW, torch.relu(self.stage(fine_BCTHW))]


class Images(nn.Module):
    """Two levels of convolutions over images, strides 2 and 8."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.stage = nn.Conv2d(6, 10, 3, stride=4, padding=1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        fine_BCHW = torch.relu(self.stem(x))
        return [fine_BCHW, torch.relu(self.stage(fine_BCHW))]
