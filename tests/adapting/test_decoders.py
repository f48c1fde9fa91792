"""What a decoder returns is as deep as the decoder, though its stride is fine: it is served by a decoder's output."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from guests import guest
from torch import Tensor, nn
from torch.nn import functional as F

import autoadapt as aa


class UNet(nn.Module):
    """Two steps down, two up with skips, and levels of the decoder beside the answer where they are asked for."""

    def __init__(self, width: int, *, levels: bool = False) -> None:
        super().__init__()
        self.levels = levels
        self.fine, self.middle = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.coarse = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.up_middle, self.up_fine = (
            nn.ConvTranspose2d(4 * width, 2 * width, 2, 2),
            nn.ConvTranspose2d(width, width, 2, 2),
        )
        self.joined_middle = nn.Conv2d(4 * width, width, 3, padding=1)
        self.joined_fine = nn.Conv2d(2 * width, width, 3, padding=1)
        self.answer = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        fine = self.fine(x).relu()
        middle = self.middle(F.max_pool2d(fine, 2)).relu()
        coarse = self.coarse(F.max_pool2d(middle, 2)).relu()
        up = self.joined_middle(torch.cat([self.up_middle(coarse), middle], 1)).relu()
        last = self.joined_fine(torch.cat([self.up_fine(up), fine], 1)).relu()
        return [up, last] if self.levels else self.answer(last)


IMAGE = torch.zeros(2, 3, 64, 64)


def test_the_answer_of_a_unet_is_that_of_a_unet() -> None:
    net = aa.adapt(UNet(4), like=UNet(8), inputs=IMAGE)
    assert [(route.source, len(route.steps)) for route in net.plan.routes] == [("output", 0)]
    assert not net.plan.cut


def test_levels_of_a_decoder_are_served_by_the_decoder() -> None:
    net = aa.adapt(UNet(4), like=UNet(8, levels=True), inputs=IMAGE)
    assert [route.source for route in net.plan.routes] == ["joined_middle", "output"]


@pytest.mark.slow
def test_a_whole_segmenter_answers_for_another() -> None:
    new, old = (smp.Unet(name, encoder_weights=None, classes=4) for name in ("mobilenet_v2", "resnet18"))
    net = aa.adapt(new, like=old, inputs=IMAGE)
    assert [(route.source, len(route.steps)) for route in net.plan.routes] == [("output", 0)]


@pytest.mark.guest
def test_decoders_of_other_libraries_answer_for_each_other() -> None:
    nets = guest("monai").networks.nets
    new = nets.SegResNet(spatial_dims=2, in_channels=3, out_channels=4, init_filters=8)
    old = nets.BasicUNet(spatial_dims=2, in_channels=3, out_channels=4, features=(8, 8, 16, 16, 16, 8))
    net = aa.adapt(new, like=old, inputs=IMAGE)
    assert [route.source for route in net.plan.routes] == ["output"]
    assert not net.plan.cut
