"""Maps of fixed sizes serve each other where a run tells that they are maps of the image."""

import pytest
import torch
from torch import nn

import autoadapt as aa

IMAGE = torch.randn(2, 3, 64, 96)


class Pooled(nn.Module):
    """A map of so many cells of any image, channels first or last."""

    def __init__(self, channels: int, rows: int, columns: int, last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.cells, self.last = nn.Conv2d(3, channels, 3, 1, 1), (rows, columns), last

    def forward(self, image):
        cells = nn.functional.adaptive_avg_pool2d(self.layer(image), self.cells)
        return cells.permute(0, 2, 3, 1) if self.last else cells


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("last", "cells"), [(False, (24, 24)), (True, (8, 8)), (False, (8, 8)), (False, (6, 10))])
def test_a_map_of_another_fixed_size_is_projected_and_resized(last, cells):
    new, old = Pooled(6, *cells, last=last), Pooled(16, 9, 9)
    net = aa.adapt(new, like=old, inputs=IMAGE)
    made, given = net(IMAGE), new(IMAGE)
    assert made.shape == old(IMAGE).shape == net(torch.randn(2, 3, 40, 40)).shape
    learned = next(one for one in net.adapters.modules() if isinstance(one, nn.Conv2d | nn.Linear))
    maps = given.permute(0, 3, 1, 2) if last else given
    maps = nn.functional.avg_pool2d(maps, 2, ceil_mode=True) if cells == (24, 24) else maps
    maps = nn.functional.conv2d(maps, learned.weight.reshape(16, 6, 1, 1), learned.bias)
    torch.testing.assert_close(made, nn.functional.interpolate(maps, size=(9, 9), mode="bilinear"))
    assert "resized to its fixed 9 cells a side" in " ".join(str(net.plan).split())
    net.verify().raise_if_failed()


def test_a_map_that_follows_the_image_serves_one_of_fixed_size():
    new, old = nn.Conv2d(3, 6, 4, 4), Pooled(16, 9, 9)
    net = aa.adapt(new, like=old, inputs=IMAGE)
    moved = torch.zeros(1, 3, 144, 144)
    moved[:, :, :16, -16:] += 1.0
    changed = (net(moved) - net(torch.zeros(1, 3, 144, 144))).norm(dim=1)[0]
    assert divmod(int(changed.argmax()), 9) == (0, 8)


def test_a_map_of_fixed_size_serves_none_that_follows_the_image():
    with pytest.raises(aa.MatchError, match="nothing in Unseen can serve"):
        aa.adapt(Unseen(), like=nn.Conv2d(3, 8, 8, 8), inputs=IMAGE)


class Unseen(nn.Module):
    """A map of fixed size in which no cell has to do with a place of the image."""

    def __init__(self, side: int = 6) -> None:
        super().__init__()
        self.layer, self.side = nn.Linear(3, 4 * side * side), side

    def forward(self, image):
        return self.layer(image.mean((2, 3))).unflatten(1, (4, self.side, self.side))


def test_what_no_run_tells_to_be_a_map_is_not_resized():
    with pytest.raises(aa.MatchError, match="only channels are learned") as caught:
        aa.adapt(Unseen(6), like=Unseen(9), inputs=IMAGE)
    assert "nn.Sequential(new, nn.AdaptiveAvgPool2d((9, 9)))" in str(caught.value)
    told = nn.Sequential(Unseen(6), nn.AdaptiveAvgPool2d((9, 9)))
    assert aa.adapt(told, like=Unseen(9), inputs=IMAGE)(IMAGE).shape == (2, 4, 9, 9)
