"""Overhead: the stand-ins of a swapped region against the same wiring written by hand, in the same run.

    python -m benchmarks.region_overhead

A detector in the style of ultralytics: a list of layers walked in a loop, of which later ones read earlier ones.
Written by hand, a module of the same weights runs the adapted backbone and goes on after the region.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.modes import in_eval_mode

LAST = 9


def layer(source: int, target: int, stride: int) -> nn.Sequential:
    """A convolution with norm and activation."""
    return nn.Sequential(nn.Conv2d(source, target, 3, stride, 1, bias=False), nn.BatchNorm2d(target), nn.SiLU())


class Walked(nn.Module):
    """Ten backbone layers, of which 4, 6 and 9 are read, and a head on each."""

    def __init__(self) -> None:
        super().__init__()
        channels = [3, 16, 32, 32, 64, 64, 128, 128, 256, 256, 256]
        strides = [2, 2, 1, 2, 1, 2, 1, 2, 1, 1]
        rows = zip(channels, channels[1:], strides, strict=False)
        self.model = nn.Sequential(*(layer(*row) for row in rows))
        self.heads = nn.ModuleList(layer(wide, 16, 1) for wide in (64, 128, 256))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        kept = []
        for i, one in enumerate(self.model):
            x = one(x)
            if i in (4, 6, LAST):
                kept.append(x)
        return [head(level) for head, level in zip(self.heads, kept, strict=True)]


class ByHand(nn.Module):
    """The wiring that a person would write: the levels of the backbone into the heads."""

    def __init__(self, swapped: Walked) -> None:
        super().__init__()
        net = swapped.model[0]
        assert isinstance(net, aa.AdaptedModule), "a region's first module is one"
        self.backbone = net.alone()
        self.heads = swapped.heads

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        levels = self.backbone(x)
        return [head(levels[name]) for head, name in zip(self.heads, ("4", "6", "9"), strict=True)]


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one call: other jobs of the machine do not count."""
    began = time.process_time()
    run()
    return time.process_time() - began


def models(size: int) -> list[nn.Module]:
    """By hand twice, which tells the noise, and with stand-ins; over the same weights."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, size, size)
    new = timm.create_model("resnet18", pretrained=False, num_classes=0)
    swapped = aa.swap(Walked(), f"model.0:model.{LAST}", new, inputs=image)
    made = [in_eval_mode(one) for one in (ByHand(swapped), ByHand(swapped), swapped)]
    with torch.no_grad():
        _, left, right = (one(image) for one in made)
        assert all(map(torch.equal, left, right)), "the same values, bit for bit"
    return made


def ratios(size: int, *, train: bool, rounds: int) -> tuple[float, float]:
    """Medians over rounds of the time by hand again, and with stand-ins, against that by hand; all in turns."""
    image, made = torch.rand(1, 3, size, size), models(size)

    def run(model: nn.Module) -> None:
        with torch.set_grad_enabled(train):
            outputs = model(image)
            if train:
                sum(one.sum() for one in outputs).backward()

    for model in made:
        model.train(train)
        for _ in range(3):
            run(model)
    found = []
    for number in range(rounds):
        order = [(number + i) % 3 for i in range(3)]
        times = {which: seconds(lambda which=which: run(made[which])) for which in order}
        found.append((times[1] / times[0], times[2] / times[0]))
    again, stand_ins = zip(*found, strict=True)
    return statistics.median(again), statistics.median(stand_ins)


if __name__ == "__main__":
    for train, size, rounds in ((False, 128, 600), (False, 320, 150), (True, 128, 200), (True, 320, 60)):
        again, stand_ins = ratios(size, train=train, rounds=rounds)
        name = "training step" if train else "forward pass"
        print(
            f"{name}, {size} x {size}, {rounds} rounds: stand-ins {stand_ins:.3f}, by hand again {again:.3f}",
            flush=True,
        )
