"""Small image backbones: an old one with a contract of many kinds of leaves, and new ones to be given its voice."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn


def stage(source: int, target: int, stride: int = 2) -> nn.Sequential:
    """A convolution that rounds sizes up, its norm and activation."""
    return nn.Sequential(nn.Conv2d(source, target, 3, stride, 1, bias=False), nn.BatchNorm2d(target), nn.ReLU())


class Pyramid(nn.Module):
    """A list of maps, one for each number of channels, at strides 2, 4, 8, ..."""

    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.out_channels = list(channels)
        self.stages = nn.ModuleList(map(stage, (3, *channels[:-1]), channels))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for one in self.stages:
            x = one(x)
            maps.append(x)
        return maps


class Mixed(nn.Module):
    """The old backbone: the image itself, an ordered dict of two maps, and int32 labels of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid(4, 8, 16)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, OrderedDict[str, torch.Tensor], torch.Tensor]:
        _, p2, p3 = self.body(image)
        return image, OrderedDict(p2=p2, p3=p3), p3.argmax(1).int()


class Plain(nn.Module):
    """A new backbone for `Mixed`: other names, other channels, int64 labels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid(6, 12, 20)

    def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor] | torch.Tensor]:
        maps = self.body(x)
        return {"maps": maps[1:], "labels": maps[-1].argmax(1)}


class Tokens(nn.Module):
    """Patches in rows with class and register tokens before them, as a vision transformer returns them."""

    def __init__(self, patch: int = 8, channels: int = 12, front: int = 1) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, channels, patch, patch)
        self.first = nn.Parameter(torch.randn(1, front, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(x), -1, -1), tokens], dim=1)


class Pair(NamedTuple):
    """A named tuple of two maps."""

    fine: torch.Tensor
    coarse: torch.Tensor


@dataclass
class Record:
    """A dataclass of two maps."""

    fine: torch.Tensor
    coarse: torch.Tensor


class Wrapped(nn.Module):
    """Two maps in a container of the given class."""

    def __init__(self, container: type) -> None:
        super().__init__()
        self.body = Pyramid(4, 8)
        self.container = container

    def forward(self, x: torch.Tensor) -> object:
        fine, coarse = self.body(x)
        return self.container(fine=fine, coarse=coarse)


class CastsItself(nn.Module):
    """Casts what it is given, and what it returns, itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.double()).float()


def image(batch: int = 2, height: int = 40, width: int = 56) -> torch.Tensor:
    """Images of noise."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))
