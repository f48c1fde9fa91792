"""Tensors with values that code keeps outside a module, and values that it asks for, change no plan."""

import functools

import pytest
import torch
from torch import nn

import autoadapt as aa

MEAN = torch.full((3, 1, 1), 0.5)
CONSTANTS = [torch.full((1, 3, 1, 1), 0.25), {"std": torch.full((3, 1, 1), 2.0)}]
TABLES: dict[tuple[int, int], torch.Tensor] = {}


@functools.lru_cache
def table(height, width):
    return torch.ones(height, width)


def kept_table(height, width):
    if (height, width) not in TABLES:
        TABLES[height, width] = torch.ones(height, width)
    return TABLES[height, width]


class Pyramid(nn.Module):
    """Three levels of what a first step makes of the image."""

    def __init__(self, first, *widths):
        super().__init__()
        self.first = [first]  # in a list, so that functions and constants are no attributes that torch knows
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip((3, *widths), widths, strict=False))

    def forward(self, x):
        x, levels = self.first[0](x), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


STEPS = {
    "looks at values": lambda x: x if x.isfinite().all() else x.nan_to_num(),
    "constant": lambda x: x - MEAN,
    "constant first": lambda x: MEAN * x,
    "in place": lambda x: (x * 1).sub_(MEAN),
    "by name": lambda x: torch.add(input=x, other=MEAN),
    "in a list": lambda x: torch.cat([x, MEAN.expand(len(x), 3, 1, 1).expand_as(x)])[: len(x)],
    "in containers": lambda x: torch.addcmul(x, CONSTANTS[0], CONSTANTS[1]["std"]),
    "as weights": lambda x: nn.functional.conv2d(x, CONSTANTS[0].expand(3, 3, 1, 1)),
    "lru_cache": lambda x: x + table(*x.shape[-2:]),
    "dict": lambda x: x + kept_table(*x.shape[-2:]),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("size", [64, 33])
@pytest.mark.parametrize("name", STEPS)
def test_a_plan_is_that_of_a_module_which_keeps_no_tensors_outside(name, size):
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    old, new = Pyramid(STEPS[name], 8, 16, 32), Pyramid(STEPS[name], 4, 6, 8)
    plain = aa.adapt(Pyramid(torch.relu, 4, 6, 8), like=Pyramid(torch.relu, 8, 16, 32), inputs=x)
    old(x)
    new(x)  # caches are full, as they are once a model has run
    net = aa.adapt(new, like=old, inputs=x)
    assert [one.source for one in net.plan.routes] == ["0", "1", "2"]
    assert net.plan.routes == plain.plan.routes
    assert net.plan.kept == plain.plan.kept
    assert net.signature.outputs == plain.signature.outputs
    assert torch.equal(net(x)[2], net.adapters.get_submodule("2")(new(x)[2]))


def test_a_module_that_reads_values_of_its_constants_still_gets_them():
    class Crop(nn.Module):
        def forward(self, x):
            return x[..., int(MEAN.sum() * 2) :] - MEAN

    assert str(aa.capture(Crop(), torch.rand(2, 3, 16, 16)).outputs["output"]) == "f32[B, 3, H, W - 3]"


def test_constants_that_do_not_fit_are_still_refused():
    class Misfit(nn.Module):
        def forward(self, x):
            return x - torch.ones(5) - MEAN

    with pytest.raises(aa.AdaptError, match="must match the size"):
        aa.capture(Misfit(), torch.rand(2, 3, 16, 16))


def test_classifiers_that_look_at_values_are_tapped_as_those_that_do_not():
    class Checked(nn.Module):
        def __init__(self, net, check):
            super().__init__()
            self.net, self.check = net, check

        def forward(self, x):
            return self.net(x if not self.check or x.isfinite().all() else x.nan_to_num())

    x = torch.rand(2, 3, 64, 64)
    parts = [nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 4), (4, 4), (4, 6), (6, 6), (6, 8), (8, 8))]
    nets = [Checked(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 9)), c) for c in (0, 1)]
    found = [{one.module: one.spec.depth for one in aa.capture(net, x, inner=True).inner} for net in nets]
    assert found[0] == found[1]
    assert found[1]["net.5"] == 6
