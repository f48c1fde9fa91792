"""Where stages end in networks of plain layers: before a pooling, behind an activation, never inside the next block."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

import autoadapt as aa
from autoadapt.adapting.taps import block_boundaries

IMAGE = torch.empty(2, 3, 64, 64, device="meta")


def boundaries(model: nn.Module) -> list[str]:
    signature = aa.capture(model, IMAGE, inner=True)
    return [output.name for output in block_boundaries(signature.inner, signature.sizes())]


class Unit(nn.Module):
    def __init__(self, source: int, target: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(source, target, 3, padding=1)
        self.activation = activation or nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.conv(x))


class Classifier(nn.Module):
    def __init__(self, features: nn.Module, width: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


def pooled_stage(source: int, target: int, units: int) -> nn.Sequential:
    rows = [(f"unit{i + 1}", Unit(target if i else source, target)) for i in range(units)]
    return nn.Sequential(OrderedDict([*rows, ("pool", nn.MaxPool2d(2))]))


def test_a_stage_that_ends_with_its_pooling_is_tapped_before_it() -> None:
    stages = [("a", pooled_stage(3, 4, 1)), ("b", pooled_stage(4, 8, 2)), ("c", pooled_stage(8, 16, 2))]
    model = Classifier(nn.Sequential(OrderedDict(stages)), 16)
    assert boundaries(model) == ["features.a.unit1", "features.b.unit2", "features.c.unit2", "features"]


class Stem(nn.Module):
    """Two strides, and nothing but convolutions, norms and activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.activation = nn.Hardswish()
        self.blur = nn.MaxPool2d(3, stride=1, padding=1)
        self.second = nn.Conv2d(4, 8, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.blur(self.activation(self.norm(self.first(x)))))


def test_a_convolution_inside_a_stem_is_tapped_behind_its_activation() -> None:
    model = Classifier(nn.Sequential(Stem(), *(Unit(8, 8) for _ in range(8))), 8)
    assert boundaries(model)[0] == "features.0.activation"


def expanding(source: int, target: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(source, 4 * source, 1),
        nn.BatchNorm2d(4 * source),
        nn.GELU(),
        nn.Conv2d(4 * source, target, 3, stride=2, padding=1),
    )


class InAList(nn.Module):
    """No module is called that holds more than one of its stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, padding=1))
        self.stages = nn.ModuleList([expanding(4, 8), expanding(8, 16), expanding(16, 32)])
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


def test_the_expansion_inside_the_next_block_is_no_end_of_a_stem() -> None:
    assert boundaries(InAList())[0] == "stem"


class Residual(nn.Module):
    """Two convolutions that end with an activation; all blocks share one module for it."""

    def __init__(self, width: int, shared: nn.Module) -> None:
        super().__init__()
        self.rest = Unit(width, width, shared)
        self.last = Unit(width, width, shared)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.rest(x))


def test_blocks_that_end_in_one_shared_activation_are_told_apart() -> None:
    shared = nn.SiLU()
    layers = [nn.Conv2d(3, 4, 4, 4), Residual(4, shared), Residual(4, shared), Residual(4, shared)]
    model = Classifier(nn.Sequential(*layers), 4)
    assert boundaries(model) == ["features.1", "features.2", "features.3"]
    inner = {output.name: output for output in aa.capture(model, IMAGE, inner=True).inner}
    assert inner["features.2"].same_as == "features.1.rest.activation@3"
