"""Four parts of one's own, each one decorated class: a backbone, a neck, a head and a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock

from autoadapt.assembly import register


@register("backbone")
class SmallImageResNet(nn.Module):
    """A ResNet that keeps every pixel of a small image: its stem is 3x3 with stride 1, and nothing pools after it."""

    def __init__(self, in_channels: int = 3, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(
            BasicBlock(source, target, stride, nn.Conv2d(source, target, 1, stride))
            for source, target, stride in zip((widths[0], *widths), widths, (1, *(2,) * len(widths)), strict=False)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        levels = [self.stem(x).relu()]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return tuple(levels[1:])


@register("neck")
class AveragePooling(nn.Module):
    """The mean over all cells: `[B, C, H, W] -> [B, C]`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


@register("head")
class LinearHead(nn.Module):
    """Scores for classes: `[B, in_channels] -> [B, num_classes]`."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


@register("loss")
class ProbabilityL1Loss(nn.Module):
    """The distance between predicted probabilities and the right ones: scores `[B, K]`, classes `[B]`."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, scores: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        right = F.one_hot(classes, scores.shape[1]).to(scores.dtype)
        return self.loss_weight * F.l1_loss(scores.softmax(1), right, reduction="sum") / len(scores)
