"""Levels whose rows and columns have other strides, as networks for text lines and spectrograms have."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import autoadapt as aa


class Stages(nn.Module):
    """A convolution for each stride, all of whose outputs come out."""

    def __init__(self, widths, strides):
        super().__init__()
        torch.manual_seed(widths[0])
        kind = (nn.Conv2d, nn.Conv3d)[len(strides[0]) - 2]
        given = (3, *widths)
        self.stages = nn.ModuleList(kind(*pair, 3, step, 1) for pair, step in zip(zip(given, widths), strides))  # noqa: B905

    def forward(self, x):
        found = []
        for stage in self.stages:
            x = F.relu(stage(x))
            found.append(x)
        return found


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "strides",
    [
        ((2, 1), (2, 1), (1, 2)),
        ((4, 2), (1, 2), (2, 1)),
        ((2, 2), (3, 1), (3, 1)),
        ((3, 1), (4, 2), (3, 1)),
        ((4, 2), (3, 1), (1, 2), (2, 1)),
        ((2, 1), (2, 1), (2, 1), (3, 1)),
        ((3, 1, 1), (1, 3, 1), (1, 1, 3)),
    ],
    ids=str,
)
def test_each_level_is_served_by_the_one_of_its_very_strides(strides):
    old, new = ([start + step * i for i in range(len(strides))] for start, step in ((8, 4), (6, 14)))
    image = torch.randn(1, 3, *[96 if len(strides[0]) == 2 else 18] * len(strides[0]))
    plan = aa.adapt(Stages(new, strides), like=Stages(old, strides), inputs=image).plan
    assert all(route.source == route.target for route in plan.routes), plan


def test_the_last_of_several_levels_of_one_stride_is_the_deepest_whether_it_is_wider_or_not():
    strides = ((2, 2), (2, 2), (1, 1), (1, 1), (1, 1), (1, 1))
    new = Stages([8, 16, 20, 20, 24, 24], strides).eval()
    depths = [spec.depth for spec in aa.capture(new, torch.randn(1, 3, 64, 64)).outputs.leaves]
    assert depths == sorted(depths)
    assert depths[3] == depths[2]
    assert depths[5] == depths[4] > depths[3]
    old = Stages([8, 16, 32, 64], ((2, 2),) * 4).eval()
    last = aa.adapt(new, like=old, inputs=torch.randn(1, 3, 64, 64), outputs=["3"]).plan.routes[0]
    assert last.source == "5"


SQUARE = ((2, 2), (2, 2), (1, 1), (1, 1), (2, 2))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("strides", "old", "new"),
    [
        (SQUARE, [16, 16, 16, 16, 16], [12, 16, 20, 24, 28]),
        (SQUARE[1:], [24, 24, 26, 39], [24, 48, 96, 192]),
        (SQUARE[:4], [8, 16, 32, 64], [12, 12, 12, 12]),
        (((4, 2), (2, 1), (1, 1), (4, 2)), [12, 12, 12, 12], [8, 12, 24, 32]),
        (((1, 2), (4, 2), (1, 1), (1, 1), (1, 2)), [12, 24, 48, 96, 192], [8, 16, 24, 36, 40]),
    ],
)
def test_levels_of_the_very_same_strides_serve_each_other_however_widths_grow(strides, old, new):
    image = torch.randn(1, 3, 96, 96)
    plan = aa.adapt(Stages(new, strides).eval(), like=Stages(old, strides).eval(), inputs=image).plan
    assert all(route.source == route.target for route in plan.routes), plan


@pytest.mark.slow
def test_a_level_of_a_network_that_was_cut_comes_from_between_the_levels_of_a_dilated_one():
    image = torch.randn(1, 3, 96, 96)
    old = timm.create_model("resnet10t", features_only=True, out_indices=(1, 2))
    new = timm.create_model("resnet18", features_only=True, output_stride=8, out_indices=(1, 4))
    assert [route.source for route in aa.adapt(new, like=old, inputs=image).plan.routes] == ["0", "layer2.1"]


class Last(Stages):
    def forward(self, x):
        return super().forward(x)[-1]


@pytest.mark.parametrize(("count", "widths"), [(4, [8, 12, 16, 20]), (3, [8, 10, 12]), (4, [20, 22, 24, 26])])
def test_the_last_of_maps_of_one_stride_that_widen_slowly_serves_one_that_comes_alone(count, widths):
    strides = ((2, 2), *[(1, 1)] * (count - 1))
    old, new = Last(widths, strides).eval(), Stages(widths, strides).eval()
    plan = aa.adapt(new, like=old, inputs=torch.randn(1, 3, 64, 64)).plan
    assert plan.routes[0].source == str(count - 1)
