"""ResNet for small images, such as CIFAR's: no pooling before the first stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from autoadapt.assembly.registry import register

# Dimension letters: B batch, C channels, H W pixels or cells.


@register("backbone", name="ResNet_CIFAR")
class ResNetCIFAR(nn.Module):
    """Torchvision's ResNet with a 3x3 stem of stride 1 and no max pooling; He et al. (2016), section 4.2.

    Args:
        depth: Layers.
        in_channels: Channels of the image; found where left out.
        deep_stem: Refused; it is the stem of big images.
        num_stages: How many stages there are.
        out_indices: The stages whose maps it returns; all where left out.
        style: Where bottlenecks step: at their 3x3 convolution.

    Shape:
        `[B, in_channels, H, W] ->` a tuple of maps, of stride 1, 2, 4 and 8 where all are returned

    Raises:
        ValueError: `deep_stem` is asked for, or there is no such stage.
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152] = 18,
        in_channels: int = 3,
        deep_stem: bool = False,
        num_stages: Literal[1, 2, 3, 4] = 4,
        out_indices: Sequence[int] | None = None,
        style: Literal["pytorch"] = "pytorch",
    ) -> None:
        super().__init__()
        if deep_stem:
            raise ValueError("ResNet_CIFAR has no deep stem: leave deep_stem out, or take timm:resnet18d")
        self._returned = tuple(range(num_stages) if out_indices is None else out_indices)
        if not all(0 <= index < num_stages for index in self._returned):
            raise ValueError(f"out_indices: ResNet_CIFAR has the stages 0 to {num_stages - 1}, got {self._returned}")
        from torchvision.models import get_model

        net = get_model(f"resnet{depth}", weights=None)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1, self.relu = net.bn1, net.relu
        self._stages = [f"layer{i + 1}" for i in range(num_stages)]
        for name in self._stages:
            self.add_module(name, net.get_submodule(name))

    def forward(self, image_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the stages."""
        features = self.relu(self.bn1(self.conv1(image_BCHW)))
        levels = []
        for name in self._stages:
            features = self.get_submodule(name)(features)
            levels.append(features)
        return tuple(levels[index] for index in self._returned)
