"""Runs of sizes: modules that take some sizes in a row and refuse the next ones, as where levels are joined."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa


class Joined(nn.Module):
    """Joins each level with the next deeper one made twice as large: they fit at runs of sizes, as in YOLOv5."""

    def __init__(self, joins: int, *, values: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 6, 2, 2)
        self.down = nn.ModuleList(nn.Conv2d(4, 4, 3, 2, 1) for _ in range(joins + 2))
        self.joins, self.values = joins, values

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [self.stem(x)]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        if self.values and bool(maps[0].isnan().any()):
            return maps[0]
        top = maps[-1]
        for finer in maps[-2 : -2 - self.joins : -1]:
            top = torch.cat([nn.functional.interpolate(top, scale_factor=2), finer], 1)
        return top


def runs_at(module: nn.Module, size: int) -> bool:
    try:
        module(torch.zeros(1, 3, size, size))
    except RuntimeError:
        return False
    return True


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("joins", "values", "size"),
    [(1, False, 108), (1, False, 109), (1, False, 156), (2, False, 124), (2, False, 128), (2, True, 224)],
)
def test_only_sizes_that_run_are_promised_where_those_beside_the_given_one_do_too(joins, values, size):
    module = Joined(joins, values=values).eval()
    signature = aa.capture(module, torch.zeros(1, 3, size, size))
    assert signature.unverified == ()
    for name in "HW":
        axis = signature.axes[name]
        assert axis.step > 1
        assert size % axis.step == axis.offset
        assert all(runs_at(module, legal) for legal in range(axis.smallest, 400, axis.step))
    legal = {name: signature.axes[name].smallest + 2 * signature.axes[name].step for name in "HW"} | {"B": 1}
    (leaf,) = signature.outputs.leaves
    assert leaf.shape(legal) == tuple(module(torch.zeros(1, 3, legal["H"], legal["W"])).shape)


def test_images_of_other_sizes_are_resized_for_it():
    contract = aa.Signature.parse("f32[B, 8, ceil(H/16), ceil(W/16)]", inputs="f32[B, 3, H, W]")
    net = aa.adapt(Joined(1).eval(), like=contract, inputs=torch.zeros(1, 3, 108, 108)).eval()
    for height, width in ((221, 200), (108, 108), (131, 97), (34, 49)):
        assert net(torch.zeros(2, 3, height, width)).shape == (2, 8, -(-height // 16), -(-width // 16))


def test_an_upper_limit_is_no_step():
    class Limited(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Parameter(torch.randn(1, 4, 100, 100))
            self.conv = nn.Conv2d(3, 4, 3, 1, 1)

        def forward(self, x):
            return self.conv(x) + self.places[:, :, : x.shape[2], : x.shape[3]]

    signature = aa.capture(Limited().eval(), torch.zeros(1, 3, 64, 64))
    assert signature.outputs.leaves[0].shape({"B": 1, "H": 70, "W": 61}) == (1, 4, 70, 61)
