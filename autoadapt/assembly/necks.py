"""Necks: what stands between a backbone and its heads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.assembly.layer_configs import convolution
from autoadapt.assembly.registry import register

__all__ = ["FPN", "ChannelMapper", "GlobalAveragePooling", "Identity"]

# Dimension letters: B batch, C channels, H W cells.


@register("neck")
class GlobalAveragePooling(nn.Module):
    """The mean over all cells; vectors, which have none, stay as they are.

    Shape:
        `[B, C, H, W]` or `[B, C]` -> `[B, C]`
    """

    def forward(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """Average."""
        if features_BCHW.dim() == 2:
            return features_BCHW
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
        num_outs: How many levels it returns; those beyond are every second cell of the one before.

    Shape:
        levels `[B, in_channels[i], H_i, W_i]` -> the same with `out_channels`, named `p2` for stride 2^2 and so on
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        strides: Sequence[int] = (4, 8, 16, 32),
        num_outs: int | None = None,
    ) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        count = len(strides)
        if num_outs is not None and num_outs < count:
            raise ValueError(f"num_outs is at least {count}, one for each level, got {num_outs}")
        self.names = tuple(f"p{stride.bit_length() - 1}" for stride in strides)
        last = strides[-1].bit_length() - 1
        self.added = tuple(f"p{last + i}" for i in range(1, (num_outs or count) - count + 1))
        self.pyramid = FeaturePyramidNetwork(list(in_channels), out_channels)

    def forward(self, levels: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add coarse levels to fine ones, top down."""
        returned: Mapping[str, torch.Tensor] = self.pyramid(OrderedDict(zip(self.names, levels, strict=True)))
        found = dict(returned)
        coarsest_BCHW = found[self.names[-1]]
        for name in self.added:
            found[name] = coarsest_BCHW = F.max_pool2d(coarsest_BCHW, 1, stride=2)
        return found


@register("neck")
class ChannelMapper(nn.Module):
    """A convolution for each level, to equal channels; mmdet's.

    Args:
        in_channels: Channels of each level; found where left out.
        out_channels: Channels of every level that it returns.
        kernel_size: Of the convolutions.
        norm_cfg: `{type: BN}` or `{type: GN, num_groups: 32}`; the convolutions have a bias where it is left out.
        act_cfg: The activation; ReLU where left out.
        num_outs: How many levels it returns; those beyond are made from the coarsest by steps of 2.

    Shape:
        levels `[B, in_channels[i], H_i, W_i]` -> a tuple of the same with `out_channels`
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        kernel_size: int = 3,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        num_outs: int | None = None,
    ) -> None:
        super().__init__()
        act = act_cfg or {"type": "ReLU"}
        self.convs = nn.ModuleList(convolution(c, out_channels, kernel_size, norm_cfg, act) for c in in_channels)
        beyond = [in_channels[-1], *[out_channels] * ((num_outs or 0) - len(in_channels))]
        more = [convolution(c, out_channels, 3, norm_cfg, act, stride=2) for c in beyond[:-1]]
        self.extra_convs = nn.ModuleList(more)

    def forward(self, levels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Map every level, and add coarser ones."""
        found = [conv(level) for conv, level in zip(self.convs, levels, strict=True)]
        coarser_BCHW = levels[-1]
        for conv in self.extra_convs:
            coarser_BCHW = conv(coarser_BCHW)
            found.append(coarser_BCHW)
        return tuple(found)
