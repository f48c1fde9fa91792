"""Heads: what turns features into predictions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.assembly.layer_configs import RELU, activation, convolution, norm
from autoadapt.assembly.registry import register

_TANH: dict[str, Any] = {"type": "Tanh"}

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


@register("head")
class StackedLinearClsHead(nn.Module):
    """Linear layers, each but the last with a norm, an activation and a dropout; mmpretrain's, layer by layer.

    Args:
        in_channels: Found where left out.
        num_classes: How many scores.
        mid_channels: Outputs of each layer but the last.
        dropout_rate: After each activation.
        norm_cfg: `{type: BN1d}` for a batch norm; none where left out.
        act_cfg: The activation: `{type: ReLU}`, or another of torch's; none where it is null.

    Shape:
        `[B, in_channels] -> [B, num_classes]`
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        mid_channels: Sequence[int],
        dropout_rate: float = 0.0,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = RELU,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [in_channels, *mid_channels]
        for width, following in itertools.pairwise(widths):
            layers += [nn.Linear(width, following), *norm(norm_cfg, following, 1), *activation(act_cfg)]
            layers += [nn.Dropout(dropout_rate)] if dropout_rate else []
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        """Classify."""
        _refuse_maps(features_BD)
        scores_BK: torch.Tensor = self.layers(features_BD)
        return scores_BK


@register("head")
class VisionTransformerClsHead(nn.Module):
    """A linear layer on a class token, or two with tanh between them as in Dosovitskiy et al. (2021), section 3.1.

    Shape:
        `[B, in_channels] -> [B, num_classes]`
    """

    def __init__(
        self, in_channels: int, num_classes: int, hidden_dim: int | None = None, act_cfg: dict[str, Any] | None = _TANH
    ) -> None:
        super().__init__()
        width = hidden_dim or in_channels
        before = [nn.Linear(in_channels, width), *activation(act_cfg)] if hidden_dim else []
        self.layers = nn.Sequential(*before, nn.Linear(width, num_classes))

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        """Classify."""
        _refuse_maps(features_BD)
        scores_BK: torch.Tensor = self.layers(features_BD)
        return scores_BK


@register("head")
class FCNHead(nn.Module):
    """Convolutions and a 1x1 one that scores every cell; Long et al. (2015), as mmseg lays it out.

    Args:
        in_channels: Found where left out.
        channels: Of the convolutions.
        num_classes: How many scores for each cell.
        num_convs: How many convolutions.
        kernel_size: Of each.
        concat_input: Whether a further convolution reads the input beside their output.
        dropout_ratio: Of whole channels, before the scores; none where it is not above 0.
        norm_cfg: `{type: BN}`; the convolutions have a bias where it is left out.
        act_cfg: The activation behind each convolution; ReLU where left out, none where it is null.
        dilation: Of the convolutions but the one that reads the input too.
        align_corners: How mmseg enlarges the scores to the image; they stay as they are here.

    Shape:
        `[B, in_channels, H, W] -> [B, num_classes, H, W]`
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int,
        num_convs: int = 2,
        kernel_size: int = 3,
        concat_input: bool = True,
        dropout_ratio: float = 0.1,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = RELU,
        align_corners: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * num_convs]
        pairs = itertools.pairwise(widths)
        convs = [convolution(a, b, kernel_size, norm_cfg, act_cfg, dilation=dilation) for a, b in pairs]
        self.convs = nn.Sequential(*convs)
        joined = in_channels + widths[-1]
        self.conv_cat = convolution(joined, channels, kernel_size, norm_cfg, act_cfg) if concat_input else None
        self.dropout = nn.Dropout2d(max(dropout_ratio, 0.0))
        self.conv_seg = nn.Conv2d(channels if concat_input or num_convs else in_channels, num_classes, 1)

    def forward(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """Score every cell."""
        found_BCHW = self.convs(features_BCHW)
        if self.conv_cat is not None:
            found_BCHW = self.conv_cat(torch.cat([features_BCHW, found_BCHW], 1))
        scores_BKHW: torch.Tensor = self.conv_seg(self.dropout(found_BCHW))
        return scores_BKHW


def _refuse_maps(features_BD: torch.Tensor) -> None:
    if features_BD.dim() != 2:
        shape = list(features_BD.shape)
        raise ValueError(f"takes vectors [B, D], got {shape}; put a neck before it, such as GlobalAveragePooling")
