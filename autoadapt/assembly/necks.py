"""Necks: what stands between a backbone and its heads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.assembly.registry import register

__all__ = ["FPN", "GlobalAveragePooling", "Identity"]

# Dimension letters: B batch, C channels, H W cells.


@register("neck")
class GlobalAveragePooling(nn.Module):
    """The mean over all cells.

    Shape:
        `[B, C, H, W] -> [B, C]`
    """

    def forward(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """Average."""
        return F.adaptive_avg_pool2d(features_BCHW, 1).flatten(1)


@register("neck")
class Identity(nn.Identity):
    """What the backbone returns, as it is."""

    def forward(self, features: Any) -> Any:
        """Return what is given."""
        return features


@register("neck")
class FPN(nn.Module):
    """Feature pyramid network, torchvision's; Lin et al. (2017).

    Args:
        in_channels: Channels of each level; found where left out.
        out_channels: Channels of every level that it returns.
        strides: Input pixels per cell of the levels it works on; a backbone without one of them is adapted.

    Shape:
        levels `[B, in_channels[i], H_i, W_i]` -> the same with `out_channels`, named `p2` for stride 2^2 and so on
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int = 256, strides: Sequence[int] = (4, 8, 16, 32)
    ) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.names = tuple(f"p{stride.bit_length() - 1}" for stride in strides)
        self.pyramid = FeaturePyramidNetwork(list(in_channels), out_channels)

    def forward(self, levels: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add coarse levels to fine ones, top down."""
        returned: Mapping[str, torch.Tensor] = self.pyramid(OrderedDict(zip(self.names, levels, strict=True)))
        return dict(returned)
