"""The check of centres by `verify`: leading tokens lie nowhere, and containers of the new module are only read."""

from collections import defaultdict
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import timm
import torch
from ramps import averaging, ramp
from torch import nn

import autoadapt as aa
from autoadapt.adapting.operations import Resample, Resize


def centres(net, image):
    return {check.name: check for check in net.verify(image).checks}["centres"]


def vit_for_finer_cells():
    old = averaging(2, 3, stride=2, padding=1)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, dynamic_img_size=True, depth=1, embed_dim=12, num_classes=0, in_chans=2
    )
    return aa.adapt(vit.eval(), like=old.eval(), inputs=ramp(2, 64))


def test_cells_before_the_first_cell_of_a_vit_are_expected_at_that_cell():
    net = vit_for_finer_cells()
    check = centres(net, ramp(2, 64))
    assert check.outcome == "passed", check.faults


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("first", "step", "outcome"), [(0, 2, "passed"), (2, 2, "failed"), (0, 2.1, "failed")])
def test_cells_of_a_vit_that_are_moved_or_stretched_are_seen(first, step, outcome):
    net = vit_for_finer_cells()
    (route,) = net.plan.routes
    *before, resize = route.steps
    placed = Resample(first=((first - 7.5) / 16,) * 2, step=(step / 16,) * 2, dims=resize.dims)
    moved = route.model_copy(update={"steps": (*before, placed)})
    wrong = aa.build(net.backbone, net.plan.model_copy(update={"routes": (moved,)}))
    assert centres(wrong, ramp(2, 64)).outcome == outcome


class Twice(dict):
    def __init__(self, first, second):
        super().__init__(first=first, second=second)


class Listed(list):
    def __init__(self, first, second):
        super().__init__([first, second])


@dataclass
class Turned:
    first: torch.Tensor
    second: torch.Tensor

    def __post_init__(self):
        self.first, self.second = self.second, self.first


CONTAINERS = {
    "defaultdict": lambda a, b: defaultdict(list, first=a, second=b),
    "dict": Twice,
    "list": Listed,
    "mapping proxy": lambda a, b: MappingProxyType({"first": a, "second": b}),
    "dataclass": Turned,
}


class Pyramid(nn.Module):
    def __init__(self, padding, container):
        super().__init__()
        self.first = averaging(2, 3, stride=2, padding=padding)
        self.second = averaging(2, 3, stride=2, padding=padding)
        self.container = container

    def forward(self, x):
        first = self.first(x)
        return self.container(first, self.second(first))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers_of_the_new_module_are_not_made_anew(kind):
    old, new = Pyramid(0, lambda a, b: [a, b]).eval(), Pyramid(1, CONTAINERS[kind]).eval()
    net = aa.adapt(new, like=old, inputs=ramp(2, 64))
    check = centres(net, ramp(2, 64))
    assert check.outcome == "passed", check.faults
    (first, second) = net.plan.routes
    wrong = tuple(one.model_copy(update={"steps": (Resize(dims=one.steps[0].dims),)}) for one in (first, second))
    assert centres(aa.build(new, net.plan.model_copy(update={"routes": wrong})), ramp(2, 64)).outcome == "failed"
