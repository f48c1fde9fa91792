"""Sound modules that are broken on purpose, and what verification must say of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Planted:
    """A fault: how to break a sound module, the check that must fail, and a part of what it must say."""

    breaks: Callable[[nn.Module], nn.Module]
    check: str
    says: str


class Spoiled(nn.Module):
    """A sound module of the contract of `small_models.Mixed`, whose outputs are spoiled."""

    def __init__(self, net: nn.Module, spoil: Callable[..., Any]) -> None:
        super().__init__()
        self.net = net
        self.spoil = spoil

    def forward(self, image: torch.Tensor) -> Any:
        given, maps, labels = self.net(image)
        return self.spoil(self, given, maps, labels)


def unchanged(module, image, maps, labels):
    return image, maps, labels


def spoiled(spoil: Callable[..., Any]) -> Callable[[nn.Module], nn.Module]:
    """Breaks a module by what happens to its outputs."""
    return lambda net: Spoiled(net, spoil)


def spoiled_where(
    holds: Callable[[nn.Module, torch.Tensor], bool], change: Callable[[dict[str, torch.Tensor]], object]
) -> Callable[[nn.Module], nn.Module]:
    """Breaks a module by what happens to its maps, and only where a condition holds."""

    return spoiled(functools.partial(_spoil_where, holds, change))


def _spoil_where(holds, change, module, image, maps, labels):
    if holds(module, image):
        change(maps)
    return image, maps, labels
