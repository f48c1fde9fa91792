"""Heads: what turns features into predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from autoadapt.assembly.registry import register

__all__ = ["DenseHead", "LinearClsHead", "MLPHead"]

# Dimension letters: B batch, D features, K classes or outputs, C channels, H W cells.


@register("head")
class LinearClsHead(nn.Module):
    """A linear layer.

    Shape:
        `[B, in_channels] -> [B, num_classes]`
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        """Classify."""
        _refuse_maps(features_BD)
        scores_BK: torch.Tensor = self.fc(features_BD)
        return scores_BK


@register("head")
class MLPHead(nn.Module):
    """Linear layers with ReLU between them, torchvision's `MLP`.

    Shape:
        `[B, in_channels] -> [B, num_classes]`
    """

    def __init__(
        self, in_channels: int, num_classes: int, hidden_channels: Sequence[int] = (256,), dropout: float = 0.0
    ) -> None:
        super().__init__()
        from torchvision.ops import MLP

        self.layers = MLP(in_channels, [*hidden_channels, num_classes], inplace=None, dropout=dropout)

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        """Classify, or regress."""
        _refuse_maps(features_BD)
        scores_BK: torch.Tensor = self.layers(features_BD)
        return scores_BK


@register("head")
class DenseHead(nn.Module):
    """A 1x1 convolution, the same for every level that it is given.

    Shape:
        `[B, in_channels, H, W] -> [B, num_classes, H, W]`, for one map or each of several
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_classes, 1)

    def forward(
        self, features: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]
    ) -> torch.Tensor | list[torch.Tensor] | dict[str, torch.Tensor]:
        """Predict at every cell; levels come back in a list, or by name."""
        match features:
            case torch.Tensor():
                scores_BKHW: torch.Tensor = self.conv(features)
                return scores_BKHW
            case Mapping():
                return {name: self.conv(map_BCHW) for name, map_BCHW in features.items()}
            case _:
                return [self.conv(map_BCHW) for map_BCHW in features]


def _refuse_maps(features_BD: torch.Tensor) -> None:
    if features_BD.dim() != 2:
        shape = list(features_BD.shape)
        raise ValueError(f"takes vectors [B, D], got {shape}; put a neck before it, such as GlobalAveragePooling")
