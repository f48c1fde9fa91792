"""Necks: what stands between a backbone and its heads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.assembly.layer_configs import RELU, convolution, norm
from autoadapt.assembly.registry import register

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
    """Feature pyramid network, torchvision's, with the levels of mmdet's; Lin et al. (2017).

    Args:
        in_channels: Channels of each level that it is given; found where left out.
        out_channels: Channels of every level that it returns.
        strides: Input pixels per cell of the levels that it is given; a backbone without one of them is adapted. Where
            they are left out and the config names another number of levels, they are those of the backbone.
        num_outs: How many levels it returns; those beyond are every second cell of the one before.
        start_level: The first of the given levels that it works on.
        end_level: The last of them; -1 is the last that is given, and only behind that one there are further levels.
        add_extra_convs: Further levels are made by convolutions in steps of 2, the first from what it is given last
            (`"on_input"`, or true), from that with `out_channels` (`"on_lateral"`), or from its own last level
            (`"on_output"`).
        relu_before_extra_convs: Whether what the second of these and those after it read passes a ReLU.
        norm_cfg: `{type: BN}`, behind every convolution, which has a bias where there is no norm.
        no_norm_on_lateral: Whether those that read the given levels have none.
        conv_cfg, act_cfg, upsample_cfg: Only as mmdet has them where they are left out.

    Shape:
        levels `[B, in_channels[i], H_i, W_i]` -> the same with `out_channels`, named `p2` for stride 2^2 and so on
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        strides: Sequence[int] = (4, 8, 16, 32),
        num_outs: int | None = None,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | Literal["on_input", "on_lateral", "on_output"] = False,
        relu_before_extra_convs: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        no_norm_on_lateral: bool = False,
        conv_cfg: None = None,
        act_cfg: None = None,
        upsample_cfg: dict[Literal["mode"], Literal["nearest"]] | None = None,
    ) -> None:
        super().__init__()
        from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork

        self.count = len(in_channels)
        self.used, names = _used(len(in_channels), strides, num_outs, start_level, end_level)
        widths = list(in_channels)[self.used]
        self.names, self.added = names[: len(widths)], names[len(widths) :]
        layer = (lambda channels: norm(norm_cfg, channels, 2)[0]) if norm_cfg else None
        self.pyramid = FeaturePyramidNetwork(widths, out_channels, norm_layer=layer)
        if layer and no_norm_on_lateral:
            plain = (Conv2dNormActivation(c, out_channels, 1, norm_layer=None, activation_layer=None) for c in widths)
            self.pyramid.inner_blocks = nn.ModuleList(plain)
        self.source = "on_input" if add_extra_convs is True else add_extra_convs or ""
        self.relu_before_extra_convs = relu_before_extra_convs
        first = widths[-1] if self.source == "on_input" else out_channels
        beyond = [first, *[out_channels] * len(self.added)][: len(self.added) if self.source else 0]
        self.extra_convs = nn.ModuleList(convolution(c, out_channels, 3, norm_cfg, None, stride=2) for c in beyond)

    def forward(self, levels: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add coarse levels to fine ones, top down."""
        if len(levels) != self.count:
            raise ValueError(f"takes {self.count} levels, one for each of in_channels, got {len(levels)}")
        worked_on = list(levels)[self.used]
        returned: Mapping[str, torch.Tensor] = self.pyramid(OrderedDict(zip(self.names, worked_on, strict=True)))
        found = dict(returned)
        coarsest_BCHW = found[self.names[-1]]
        if self.source == "on_input":
            coarsest_BCHW = worked_on[-1]
        elif self.source == "on_lateral":
            coarsest_BCHW = self.pyramid.get_result_from_inner_blocks(worked_on[-1], -1)
        for i, name in enumerate(self.added):
            if self.source:
                read_BCHW = F.relu(coarsest_BCHW) if i and self.relu_before_extra_convs else coarsest_BCHW
                found[name] = coarsest_BCHW = self.extra_convs[i](read_BCHW)
            else:
                found[name] = coarsest_BCHW = F.max_pool2d(coarsest_BCHW, 1, stride=2)
        return found


def _used(
    given: int, strides: Sequence[int], num_outs: int | None, start: int, end: int
) -> tuple[slice, tuple[str, ...]]:
    """Which of the given levels a pyramid works on, and the names of all that it returns."""
    if given != len(strides):
        raise ValueError(f"in_channels and strides are of as many levels, got {given} and {len(strides)}")
    if not 0 <= start < given or not (end == -1 or start <= end < given):
        raise ValueError(f"start_level to end_level is within 0 to {given - 1}, got {start} to {end}")
    stop = given if end == -1 else end + 1
    count = stop - start
    outs = count if num_outs is None else num_outs
    if outs < count:
        raise ValueError(f"num_outs is at least {count}, one for each level, got {outs}")
    if outs > count and stop < given:
        raise ValueError(f"num_outs is {count} where end_level is not the last level, got {outs}")
    octaves = [stride.bit_length() - 1 for stride in strides[start:stop]]
    if len(set(octaves)) < count:
        raise ValueError(f"strides are of an octave each, got {list(strides)}")
    beyond = range(octaves[-1] + 1, octaves[-1] + 1 + outs - count)
    return slice(start, stop), tuple(f"p{octave}" for octave in (*octaves, *beyond))


@register("neck")
class ChannelMapper(nn.Module):
    """A convolution for each level, to equal channels; mmdet's.

    Args:
        in_channels: Channels of each level; found where left out.
        out_channels: Channels of every level that it returns.
        kernel_size: Of the convolutions.
        norm_cfg: `{type: BN}` or `{type: GN, num_groups: 32}`; the convolutions have a bias where it is left out.
        act_cfg: The activation; ReLU where left out, none where it is null.
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
        act_cfg: dict[str, Any] | None = RELU,
        num_outs: int | None = None,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convolution(c, out_channels, kernel_size, norm_cfg, act_cfg) for c in in_channels)
        beyond = [in_channels[-1], *[out_channels] * ((num_outs or 0) - len(in_channels))]
        more = [convolution(c, out_channels, 3, norm_cfg, act_cfg, stride=2) for c in beyond[:-1]]
        self.extra_convs = nn.ModuleList(more)

    def forward(self, levels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Map every level, and add coarser ones."""
        found = [conv(level) for conv, level in zip(self.convs, levels, strict=True)]
        coarser_BCHW = levels[-1]
        for conv in self.extra_convs:
            coarser_BCHW = conv(coarser_BCHW)
            found.append(coarser_BCHW)
        return tuple(found)
