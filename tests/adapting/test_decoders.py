"""What a decoder returns is as deep as the decoder, though its stride is fine: it is served by a decoder's output."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import timm
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


class Decoder(nn.Module):
    """Two levels down, and up again by transposed convolutions onto what the finer levels saw."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], width: int = 4) -> None:
        super().__init__()
        self.join = join
        self.fine, self.middle = nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, width, 3, 2, 1)
        self.coarse = nn.Conv2d(width, width, 3, 2, 1)
        self.up, self.up_again = (nn.ConvTranspose2d(width, width, 4, 2, 1) for _ in range(2))
        self.mixed = nn.LazyConv2d(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        middle = self.middle(fine := self.fine(x))
        up = self.up(self.coarse(middle)) + middle
        return self.mixed(self.join(self.up_again(up), fine))


JOINS = {
    "coarse first": lambda coarse, fine: coarse + fine,
    "fine first": lambda coarse, fine: fine + coarse,
    "side by side": lambda coarse, fine: torch.cat([coarse, fine], 1),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("join", JOINS)
def test_what_comes_down_from_coarse_cells_does_not_move_those_that_it_meets(join: str) -> None:
    """The transposed convolutions alone lie 1.5 pixels to the left: a sound output was moved by that."""
    new = Decoder(JOINS[join])
    new(IMAGE)
    (spec,) = aa.capture(new, IMAGE).outputs.leaves
    assert [(one.first, one.step) for one in spec.centres] == [(0, 1), (0, 1)]
    net = aa.adapt(new.eval(), like=nn.Conv2d(3, 4, 3, 1, 1), inputs=IMAGE)
    x = torch.randn(1, 3, 40, 52)
    assert torch.equal(net(x), new(x))


class Levels(nn.Module):
    def __init__(self, stages: nn.ModuleList) -> None:
        super().__init__()
        self.stages = stages

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x := stage(x) for stage in self.stages]


class Detector(nn.Module):
    """Answers with scores and levels in eval mode, and with another container in train mode."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, width), (width, width), (width, width)))
        self.head = Head(width)

    def forward(self, x: Tensor) -> object:
        return self.head([x := stage(x) for stage in self.stages])


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scores = nn.Conv2d(width, 7, 1)

    def forward(self, levels: list[Tensor]) -> object:
        told = {"scores": self.scores(levels[-1]).flatten(2), "levels": levels}
        return told if self.training else (told["scores"].sigmoid(), told)


def test_levels_that_a_head_hands_on_in_eval_mode_are_tapped_where_they_are_made() -> None:
    new = Detector(4)
    pyramid = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 8), (8, 8), (8, 8)))
    net = aa.adapt(new, like=Levels(pyramid), inputs=IMAGE)
    assert [route.source for route in net.plan.routes] == ["stages.0", "stages.1", "stages.2"]
    trained, level = net.train()(x := torch.randn(2, 3, 64, 64)), x
    assert all(map(torch.equal, trained, net.eval()(x)))
    for made, stage in zip(trained, new.stages, strict=True):
        level = stage(level)
        assert projected(level, made)


def projected(read: Tensor, made: Tensor) -> bool:
    """Whether one map is a linear map of the channels of another, plus a bias."""
    rows, wanted = read.transpose(1, -1).flatten(0, -2), made.transpose(1, -1).flatten(0, -2)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    return torch.allclose(rows @ torch.linalg.lstsq(rows, wanted).solution, wanted, atol=1e-4)


class Upwards(nn.Module):
    """Four steps down and three up, which it returns: strides of 8, 4 and 2."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.Conv2d(b + a, a, 3, 1, 1) for a, b in zip(widths[2::-1], widths[:0:-1], strict=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        *fine, x = [x := down(x).relu() for down in self.down]
        pairs = zip(self.up, reversed(fine), strict=True)
        return [x := up(torch.cat([F.interpolate(x, size=to.shape[2:]), to], 1)).relu() for up, to in pairs]


def test_what_is_cut_is_offered_for_the_coarsest_level_of_a_decoder() -> None:
    net = aa.adapt(timm.create_model("resnet18"), like=Upwards(), inputs=torch.zeros(2, 3, 128, 128))
    assert 'taps={"0": "layer4.1"}' in net.plan.cut_remark
