"""Whether an adapted module runs as fast as the same adapters written by hand, eager and compiled.

    python -m benchmarks.overhead             # two backbones, eager and compiled
    python -m benchmarks.overhead --rounds 50 --eager

Both modules share their weights and run in turns on the same input, in an order that changes with every round; the
median of the ratios is printed, with the quartiles. Above 1 means that the adapted module is slower.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import torch.nn.functional as F
from torch import nn

import autoadapt as aa
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.showing.tables import columns


class ResNetByHand(nn.Module):
    """ResNet-18 features with the channels of ResNet-101's, as one writes it."""

    def __init__(self, net: aa.AdaptedModule) -> None:
        super().__init__()
        self.backbone = net.backbone
        self.projections = nn.ModuleList(net.adapters.get_submodule(f"{i}.project") for i in range(1, 5))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        c1, c2, c3, c4, c5 = self.backbone(x)
        p2, p3, p4, p5 = self.projections
        return [c1, p2(c2), p3(c3), p4(c4), p5(c5)]


class DenseNetByHand(nn.Module):
    """DenseNet-121 features with the channels and the sizes of ResNet-101's, as one writes it."""

    def __init__(self, net: aa.AdaptedModule) -> None:
        super().__init__()
        self.backbone = net.backbone
        self.projection = net.adapters.get_submodule("4.project")

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        height, width = x.shape[2:]
        c1, c2, c3, c4, c5 = self.backbone(x)
        c3 = F.interpolate(c3, ((height + 7) // 8, (width + 7) // 8), mode="bilinear", align_corners=False)
        c4 = F.interpolate(c4, ((height + 15) // 16, (width + 15) // 16), mode="bilinear", align_corners=False)
        size = (height + 31) // 32, (width + 31) // 32
        c5 = F.interpolate(self.projection(c5), size, mode="bilinear", align_corners=False)
        return [c1, c2, c3, c4, c5]


@dataclass(frozen=True)
class Pair:
    """An adapted module, the same by hand, and an input."""

    name: str
    adapted: nn.Module
    by_hand: nn.Module
    x: torch.Tensor


def pairs() -> list[Pair]:
    """The modules to compare; both give the same values, bit for bit."""
    old, x = timm.create_model("resnet101", features_only=True), torch.randn(2, 3, 97, 131)
    found = []
    for name, by_hand in (("resnet18", ResNetByHand), ("densenet121", DenseNetByHand)):
        net = in_eval_mode(aa.adapt(timm.create_model(name, features_only=True), like=old, inputs=x))
        other = in_eval_mode(by_hand(net))
        with torch.no_grad():
            assert all(map(torch.equal, net(x), other(x))), name
        found.append(Pair(name, net, other, x))
    return found


def compiled(pair: Pair) -> Pair:
    """The same pair behind torch.compile."""
    torch._dynamo.reset()
    left, right = (torch.compile(one, dynamic=True) for one in (pair.adapted, pair.by_hand))
    return Pair(pair.name, left, right, pair.x)


def seconds(module: Callable[[torch.Tensor], object], x: torch.Tensor) -> float:
    """How long one forward pass takes."""
    start = time.perf_counter()
    module(x)
    return time.perf_counter() - start


def ratios(pair: Pair, rounds: int) -> list[float]:
    """Time of the adapted module over that by hand, one for each round."""
    found = []
    with torch.no_grad():
        for _ in range(3):
            pair.adapted(pair.x), pair.by_hand(pair.x)
        for i in range(rounds):
            if i % 2:
                ours, theirs = seconds(pair.adapted, pair.x), seconds(pair.by_hand, pair.x)
            else:
                theirs, ours = seconds(pair.by_hand, pair.x), seconds(pair.adapted, pair.x)
            found.append(ours / theirs)
    return found


def row(name: str, how: str, found: list[float]) -> tuple[str, ...]:
    """The line of one comparison."""
    low, middle, high = statistics.quantiles(found, n=4)
    return name, how, f"{middle:.3f}", f"{low:.3f} .. {high:.3f}", str(len(found))


def main() -> None:
    """Compare every pair and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--eager", action="store_true", help="do not compile")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [("like ResNet-101 features", "", "ratio", "quartiles", "rounds")]
    made = pairs()
    rows += [row(pair.name, "eager", ratios(pair, given.rounds)) for pair in made]
    if not given.eager:
        rows += [row(pair.name, "compiled", ratios(compiled(pair), given.rounds)) for pair in made]
    print("\n".join(columns(rows, align="llrlr")))


if __name__ == "__main__":
    main()
