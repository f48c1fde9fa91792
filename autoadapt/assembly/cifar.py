"""ResNet for small images, such as CIFAR's: no pooling before the first stage."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from autoadapt.assembly.registry import register

__all__ = ["ResNetCIFAR"]

# Dimension letters: B batch, C channels, H W pixels or cells.


@register("backbone", name="ResNet_CIFAR")
class ResNetCIFAR(nn.Module):
    """Torchvision's ResNet with a 3x3 stem of stride 1 and no max pooling; He et al. (2016), section 4.2.

    Args:
        depth: Layers.
        in_channels: Channels of the image; found where left out.
        deep_stem: Refused; it is the stem of big images.

    Shape:
        `[B, in_channels, H, W] ->` four maps of stride 1, 2, 4 and 8

    Raises:
        ValueError: `deep_stem` is asked for.
    """

    def __init__(
        self, depth: Literal[18, 34, 50, 101, 152] = 18, in_channels: int = 3, deep_stem: bool = False
    ) -> None:
        super().__init__()
        if deep_stem:
            raise ValueError("ResNet_CIFAR has no deep stem: leave deep_stem out, or take timm:resnet18d")
        from torchvision.models import get_model

        net = get_model(f"resnet{depth}", weights=None)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1, self.relu = net.bn1, net.relu
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4

    def forward(self, image_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the four stages."""
        features = self.relu(self.bn1(self.conv1(image_BCHW)))
        levels = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
            levels.append(features)
        return tuple(levels)
