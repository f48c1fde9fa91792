"""Small models and a contract to rank them by."""

from __future__ import annotations

import torch
from torch import nn

OLD = ["f32[B, 24, ceil(H/8), ceil(W/8)]", "f32[B, 48, ceil(H/16), ceil(W/16)]"]
INPUTS = torch.zeros(1, 3, 64, 64)


class Pyramid(nn.Module):
    """Two levels of a plain network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 4, stride=4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 2, stride=2), nn.ReLU())

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(x)
        return [first, self.second(first)]
