"""Levels whose rows and columns have other strides, as networks for text lines and spectrograms have."""

from __future__ import annotations

import pytest
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
