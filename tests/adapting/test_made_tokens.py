"""Class tokens beside cells of another order, and class tokens for modules that have none."""

import einops
import pytest
import torch
from clip_models import ListedClip
from tokens import Block
from torch import nn

import autoadapt as aa

CLIP = (2, 3, 4, 32, 48)


class Tower(nn.Module):
    """Cells of an image as tokens, behind a class token if that is asked for."""

    def __init__(self, channels: int, patch: int = 8, led: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.led = nn.Conv2d(3, channels, patch, patch), led
        self.first = nn.Parameter(torch.randn(1, 1, channels))
        self.blocks = nn.Sequential(Block(channels), Block(channels))

    def forward(self, image):
        tokens_BNC = self.embed(image).flatten(2).mT
        return self.blocks(
            torch.cat([self.first.expand(len(image), -1, -1), tokens_BNC], 1) if self.led else tokens_BNC
        )


@pytest.mark.slow
@pytest.mark.parametrize(("new_order", "old_order"), [("thw", "hwt"), ("wht", "thw")])
def test_cells_behind_a_class_token_are_brought_to_another_order(new_order, old_order):
    new, old = ListedClip(new_order, 1), ListedClip(old_order, 1)
    clip = torch.randn(CLIP)
    net = aa.adapt(new, like=old, inputs=clip)
    other = torch.randn(1, 3, 8, 16, 64)
    tokens = new(other)
    sides = {"t": 4, "h": 2, "w": 8}
    turned = einops.rearrange(tokens[:, 1:], f"b ({' '.join(new_order)}) c -> b ({' '.join(old_order)}) c", **sides)
    torch.testing.assert_close(net(other), torch.cat([tokens[:, :1], turned], 1))
    assert net.plan.parameters == 0


@pytest.mark.sampled(1)
@pytest.mark.parametrize("patch", [8, 4])
def test_a_class_token_is_the_mean_of_the_cells_where_there_is_none(patch):
    new, old = Tower(12, patch, led=False), Tower(20)
    image = torch.randn(2, 3, 32, 48)
    net = aa.adapt(new, like=old, inputs=image)
    assert "its class token is made, as the mean of the cells" in " ".join(str(net.plan).split())
    made = net(torch.randn(1, 3, 64, 40))
    assert made.shape == (1, 41, 20)
    torch.testing.assert_close(made[:, 0], made[:, 1:].mean(1))
    net.verify().raise_if_failed()


def test_convolutions_serve_tokens_behind_a_class_token():
    net = aa.adapt(nn.Conv2d(3, 6, 16, 16), like=Tower(20), inputs=torch.randn(2, 3, 32, 48))
    made = net(torch.randn(1, 3, 64, 48))
    assert made.shape == (1, 49, 20)
    torch.testing.assert_close(made[:, 0], made[:, 1:].mean(1))


class Classless(nn.Module):
    """A projector of a vision-language model, which reads the cells alone."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower, self.project = tower, nn.Linear(20, 4)

    def forward(self, image):
        return self.project(self.tower(image)[:, 1:])


def test_a_tower_without_class_token_serves_one_that_reads_cells_alone():
    image = torch.randn(2, 3, 32, 48)
    model = aa.swap(Classless(Tower(20)), "tower", new := Tower(12, led=False), inputs=image)
    adapter = next(one for one in model.tower.modules() if isinstance(one, nn.Linear) and one.out_features == 20)
    torch.testing.assert_close(model(image), model.project(adapter(new(image))))


def test_source_and_calibration_know_made_class_tokens(tmp_path):
    new, old, image = Tower(12, led=False), Tower(20), torch.randn(8, 3, 32, 48)
    net = aa.adapt(new, like=old, inputs=image)
    aa.to_source(net, tmp_path / "net.py")
    assert "def lead_with_mean" in (tmp_path / "net.py").read_text()
    aa.calibrate(net, like=old, data=[image])
    assert (net(image) - old(image))[:, 1:].norm() < old(image)[:, 1:].norm()


class WithLoss(nn.Module):
    """Class token and cells, beside a number for the whole batch."""

    def __init__(self, width):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)

    def forward(self, x):
        cells = self.patch(x).flatten(2).transpose(1, 2)
        return torch.cat([cells.mean(1, keepdim=True), cells], 1), cells.square().mean()


def test_a_number_beside_tokens_serves_none_of_them():
    net = aa.adapt(WithLoss(8), like=WithLoss(12), inputs=torch.rand(2, 3, 32, 48))
    assert [route.source for route in net.plan.routes] == ["0", "1"]
