"""Where the image is resized before the new module reads it, cells still lie where the old ones lay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa

IMAGE = torch.zeros(2, 3, 96, 96)


class Patches(nn.Module):
    """Means of patches of an image of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Conv2d(3, 3, 8, 8, groups=3, bias=False)
        nn.init.constant_(self.means.weight, 1 / 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != (96, 96):
            raise ValueError("images are 96 x 96")
        return self.means(x)


def without_padding() -> nn.Module:
    """Cells whose first centre is at pixel 15, 4 pixels apart."""
    return nn.Sequential(nn.Conv2d(3, 3, 11, 2), nn.Conv2d(3, 3, 11, 2)).eval()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("size", [(96, 96), (64, 128), (101, 75)])
def test_cells_of_a_resized_image_lie_where_those_without_padding_lay(size):
    net = aa.adapt(Patches().eval(), like=without_padding(), inputs=IMAGE).eval()
    assert [step.op for step in net.plan.routes[0].steps] == ["resize", "resample"]
    assert "resized before" in net.plan.routes[0].remark
    for axis, length in enumerate(size):
        ramp = torch.arange(length).float().reshape([-1, 1] if axis == 0 else [1, -1])
        found = net(ramp.expand(1, 3, *size).contiguous())[0, 0].movedim(axis, 0)[:, 0]
        wanted = 15 + 4 * torch.arange(len(found))
        seen = wanted.clamp(length / 24 - 0.5, length - length / 24 - 0.5)  # beyond its border the last patch counts
        assert (found - seen).abs().max() <= 2, "half a step"


def test_cells_of_symmetric_padding_need_no_second_step():
    old = nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), nn.Conv2d(3, 3, 3, 2, 1)).eval()
    net = aa.adapt(Patches().eval(), like=old, inputs=IMAGE)
    assert [step.op for step in net.plan.routes[0].steps] == ["resize"]
    assert "resized before" not in net.plan.routes[0].remark


def test_cells_of_a_resized_image_that_lie_elsewhere_are_remarked_on():
    old = nn.Sequential(*[nn.Conv2d(3, 3, 3, 2, 1) for _ in range(3)]).eval()
    route = aa.adapt(Patches().eval(), like=old, inputs=IMAGE).plan.routes[0]
    assert route.remark == "its cells lie up to 3.5 pixels from the old ones"


def test_a_shift_by_a_quarter_of_a_step_is_remarked_on():
    old = nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), nn.MaxPool2d(1, 2)).eval()
    new = nn.Conv2d(3, 3, 3, 2, 1).eval()
    route = aa.adapt(new, like=old, inputs=IMAGE).plan.routes[0]
    assert [step.op for step in route.steps] == ["pool"]
    assert route.remark == "its cells lie up to 1 pixels from the old ones"
