"""The old head keeps working: two small networks read digits, the backbone of one goes into the other.

Run as `python examples/digits.py`; needs scikit-learn for its 1,797 real digits, and no labels after training.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import calibrate
from autoadapt.showing.tables import columns

TRAINED = 1200
"""Digits to train on; the others are for testing."""


class Backbone(nn.Module):
    """Three convolutions at strides 2, 4 and 8."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = zip((1, *widths), widths, strict=False)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(source, target, 3, stride=2, padding=1), nn.BatchNorm2d(target), nn.ReLU())
            for source, target in pairs
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Shape: `[B, 1, H, W]` -> three levels."""
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


class Head(nn.Module):
    """A convolution on the last level, and ten classes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.classes = nn.Linear(64, 10)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """Shape: levels -> `[B, 10]`."""
        logits: torch.Tensor = self.classes(self.layers(levels[-1]).mean((2, 3)))
        return logits


class Network(nn.Module):
    """A backbone and a head."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.backbone = Backbone(widths)
        self.head = Head(widths[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape: `[B, 1, 32, 32] -> [B, 10]`."""
        logits: torch.Tensor = self.head(self.backbone(x))
        return logits


def digits(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All digits in an order by chance, `f32[N, 1, 32, 32]`, and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(images, size=(32, 32), mode="bilinear")[order], torch.tensor(data.target)[order]


def train(widths: Sequence[int], images: torch.Tensor, labels: torch.Tensor, *, seed: int, epochs: int = 5) -> Network:
    """A network trained from scratch."""
    torch.manual_seed(seed)
    net = Network(widths)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimiser.step()
    net.eval()
    return net


def accuracy(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of digits that are read right."""
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).float().mean())


def networks(seed: int) -> tuple[Network, Network]:
    """A wide and a narrow network, trained apart on the same digits."""
    images, labels = digits(seed)
    images, labels = images[:TRAINED], labels[:TRAINED]
    wide = train((32, 64, 128), images, labels, seed=seed)
    return wide, train((16, 32, 64), images, labels, seed=1000 + seed)


def swapped(old: Network, new: Network) -> Network:
    """The old network with the new one's backbone, adapted; the adapters are random."""
    net = copy.deepcopy(old)
    net.backbone = adapt(new.backbone, like=old.backbone, inputs=torch.zeros(2, 1, 32, 32))  # type: ignore[assignment]
    return net


def study(seed: int, counts: Sequence[int]) -> dict[str, float]:
    """Accuracy before, after the swap, and after calibration on so many images without labels."""
    images, labels = digits(seed)
    held_out = images[TRAINED:], labels[TRAINED:]
    old, new = networks(seed)
    torch.manual_seed(seed)
    found = {"before": accuracy(old, *held_out), "swapped": accuracy(swapped(old, new), *held_out)}
    for count in counts:
        net = swapped(old, new)
        calibrate(net, at="backbone", like=old, data=images[:count].split(16), images=count)
        found[f"{count} images"] = accuracy(net, *held_out)
    return found


def table(found: Sequence[dict[str, float]]) -> str:
    """One row a seed, and their median."""
    names = list(found[0])
    middle = {name: median(row[name] for row in found) for name in names}
    rows = [("seed", *names)]
    rows += [(str(seed), *(f"{row[name]:.3f}" for name in names)) for seed, row in enumerate(found)]
    rows += [("median", *(f"{middle[name]:.3f}" for name in names))]
    return "\n".join(columns(rows, align="l" + "r" * len(names)))


def main(seeds: int = 3, counts: Sequence[int] = (8, 32)) -> None:
    """Print accuracies on held-out digits: before, swapped, calibrated."""
    print("digits: widths 32, 64, 128; backbone swapped for one of 16, 32, 64; accuracy on 597 held-out digits")
    print(table([study(seed, counts) for seed in range(seeds)]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    main(parser.parse_args().seeds)
