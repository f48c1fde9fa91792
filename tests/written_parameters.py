"""Backbones whose forward writes to their own parameters, each in another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from small_models import Pyramid
from torch import nn


class Writing(Pyramid):
    """A pyramid that does something to its first weight before each pass.

    Args:
        write: What it does, given the weight, which is a parameter or a stand-in for one.
    """

    def __init__(self, write: Callable[[torch.Tensor], Any], *channels: int) -> None:
        super().__init__(*(channels or (4, 8)))
        self.write = write

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.write(self.stages[0][0].weight)
        return super().forward(x)


class Momentum(Writing):
    """A pyramid with a slow copy of its weights beside it, which follows them at each pass."""

    def __init__(self, *channels: int) -> None:
        super().__init__(lambda _weight: None, *channels)
        self.slow = Pyramid(*(channels or (4, 8)))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        for slow, fast in zip(self.slow.parameters(), self.stages.parameters(), strict=True):
            slow.data.mul_(0.9).add_(fast.data, alpha=0.1)
        return [one + 0 * other for one, other in zip(super().forward(x), self.slow(x), strict=True)]


class Raising(Writing):
    """A pyramid that has written by the time it refuses images of other sizes than 32."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = super().forward(x)
        if x.shape[-1] != 32:
            raise ValueError("images of 32 pixels only")
        return found


def clamp_data(weight: torch.Tensor) -> None:
    weight.data.clamp_(-0.1, 0.1)


def decay(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight.mul_(0.5)


def standardise(weight: torch.Tensor) -> None:
    weight.detach().sub_(weight.detach().mean()).div_(weight.detach().std() + 1)


def iterate_power(weight: torch.Tensor) -> None:
    flat = weight.data.flatten(1)
    weight.data.copy_(weight.data / (flat @ torch.ones_like(flat[0])).norm())


def replace(weight: torch.Tensor) -> None:
    weight.data = weight.data * 0.5


def write_by_index(weight: torch.Tensor) -> None:
    weight.data[0] = 0.25


def write_an_array(weight: torch.Tensor) -> None:
    if not weight.is_meta:
        weight.detach().numpy()[...] *= 0.5


class WritingHead(nn.Module):
    """Clamps its own weights, and answers with two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 2, 1)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        clamp_data(self.layer.weight)
        return self.layer(features[1]).mean((2, 3))


def from_numpy(model: nn.Module) -> nn.Module:
    """The same model with weights in memory of NumPy, which PyTorch cannot share until it is written to."""
    for parameter in model.parameters():
        parameter.data = torch.from_numpy(parameter.detach().numpy().copy())
    return model


KINDS: dict[str, Callable[..., nn.Module]] = {
    "clamped through .data": lambda *c: Writing(clamp_data, *c),
    "decayed under no_grad": lambda *c: Writing(decay, *c),
    "standardised in place": lambda *c: Writing(standardise, *c),
    "power iteration": lambda *c: Writing(iterate_power, *c),
    ".data replaced": lambda *c: Writing(replace, *c),
    "written by index": lambda *c: Writing(write_by_index, *c),
    "momentum encoder": Momentum,
    "memory of NumPy": lambda *c: from_numpy(Writing(clamp_data, *c)),
    "written and then raised": lambda *c: Raising(clamp_data, *c),
}
