"""torch.jit.script of adapted modules: the same values at any size; taps are refused with what to do instead."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.errors import BuildError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The TorchScript type system:UserWarning"),
]


class Levels(nn.Module):
    """Two levels, of strides 2 and 4, in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.two = nn.Conv2d(4, 6, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        fine = self.one(x)
        return [fine, self.two(fine)]


class InOrder(Levels):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = self.one(x)
        return OrderedDict([("fine", fine), ("coarse", self.two(fine))])


class Tokens(nn.Module):
    """Patches as tokens behind one class token."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, patch, stride=patch)
        self.first = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cells = self.stem(x).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(cells.shape[0], -1, -1), cells], 1)


def conv(kernel: int, padding: int, stride: int = 4) -> nn.Module:
    return nn.Conv2d(3, 8, kernel, stride=stride, padding=padding)


NEW = {
    "the same stride": (lambda: conv(4, 0), lambda: nn.Conv2d(3, 5, 4, stride=4)),
    "pooled": (lambda: conv(8, 0, 8), lambda: nn.Conv2d(3, 5, 2, stride=2)),
    "cells elsewhere": (lambda: conv(11, 0, 4), lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1)),
    "enlarged": (lambda: conv(2, 0, 2), lambda: nn.Conv2d(3, 5, 8, stride=8)),
    "a list": (Levels, lambda: nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1))),
    "levels": (Levels, InOrder),
    "names in order": (InOrder, Levels),
    "tokens from a map": (lambda: Tokens(4, 6), lambda: Tokens(8, 5)),
    "a map from tokens": (lambda: conv(4, 0), lambda: Tokens(4, 5)),
    "clips": (lambda: nn.Conv3d(3, 8, 4, stride=4), lambda: nn.Conv3d(3, 5, 2, stride=2)),
    "signals": (lambda: nn.Conv1d(3, 8, 4, stride=4), lambda: nn.Conv1d(3, 5, 2, stride=2)),
}


def example(old: nn.Module, size: int) -> torch.Tensor:
    axes = {nn.Conv1d: 1, nn.Conv3d: 3}.get(type(old), 2)
    return torch.randn(2, 3, *range(size, size + 8 * axes, 8))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", NEW)
def test_an_adapted_module_can_be_scripted_and_returns_the_same_at_any_size(kind):
    old, new = (make() for make in NEW[kind])
    net = aa.adapt(new, like=old, inputs=example(old, 32)).eval()
    script = torch.jit.script(net)
    for size in (32, 40, 56):
        x = example(old, size)
        torch.testing.assert_close(script(x), net(x), rtol=0, atol=0)


def test_tapped_modules_are_refused_with_what_to_do_instead_alone_and_inside_a_model():
    new = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1)), nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1)), nn.Flatten())
    net = aa.adapt(new, like=Levels(), inputs=torch.zeros(1, 3, 32, 32))
    assert net.plan.taps
    for model in (net, nn.Sequential(net)):
        with pytest.raises(BuildError, match=r"(?s)with taps.*hooks at 0, 1.*aa\.export\(net, \"net\.pt\"\)"):
            torch.jit.script(model)


def test_scripting_a_bigger_model_leaves_it_as_it_was():
    model = nn.Sequential(aa.adapt(conv(4, 0), like=conv(8, 0, 8), inputs=torch.zeros(1, 3, 32, 32)), nn.ReLU())
    net = model[0]
    script = torch.jit.script(model)
    assert model[0] is net
    assert net.plan.target == net.signature
    torch.testing.assert_close(script(torch.ones(1, 3, 40, 48)), model(torch.ones(1, 3, 40, 48)))


def test_the_values_of_scripted_arguments_in_containers_are_those_of_the_module():
    class Pair(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, width, 4, stride=4)

        def forward(self, images: dict[str, torch.Tensor], more: list[torch.Tensor]) -> torch.Tensor:
            return self.layer(images["left"]) + self.layer(more[0])

    x = torch.randn(2, 3, 32, 32)
    net = aa.adapt(Pair(8), like=Pair(5), inputs=({"left": x}, [x]))
    torch.testing.assert_close(torch.jit.script(net)({"left": x}, [x]), net({"left": x}, [x]))
