"""What the old module returned in the order of its axes can be taken apart by `view` after it was adapted as well."""

import pytest
import timm
import torch
from torch import nn

import autoadapt as aa


class Permuted(nn.Module):
    """Returns a permuted view, as a backbone that computes with channels last does."""

    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 4, stride=4)

    def forward(self, x):
        return self.conv(x).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class Tokens(nn.Module):
    """A class token before the cells in rows."""

    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 4, stride=4)

    def forward(self, x):
        cells = self.conv(x).flatten(2).transpose(1, 2)
        return torch.cat([cells.mean(1, keepdim=True), cells], 1)


class Cells(Tokens):
    def forward(self, x):
        return super().forward(x)[:, 1:].contiguous()


def patches(width):
    return nn.Conv2d(3, width, 4, stride=4)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("width", [8, 5], ids=["equal channels", "projected"])
@pytest.mark.parametrize(
    ("new", "old"),
    [(Permuted, patches), (Tokens, patches), (Tokens, Cells)],
    ids=["view", "tokens", "dropped token"],
)
def test_an_output_that_would_be_a_view_is_put_in_order(new, old, width):
    old, new, x = old(width), new(), torch.rand(2, 3, 32, 32)
    net = aa.adapt(new, like=old, inputs=x)
    assert old(x).is_contiguous()
    assert net(x).is_contiguous()
    net(x).view(2, -1)
    assert net.verify().passed
    (route,) = net.plan.routes
    view = route.model_copy(update={"made_contiguous": False})
    bare = aa.build(new, net.plan.model_copy(update={"routes": (view,)}))
    bare.load_state_dict(net.state_dict())
    assert torch.equal(bare(x), net(x))


def test_an_old_view_stays_one_and_what_is_in_order_gets_no_copy():
    x = torch.rand(2, 3, 32, 32)
    assert aa.capture(Permuted(), x).contiguous == ()
    assert "contiguous" not in aa.adapt(Tokens(), like=Permuted(), inputs=x).code
    assert "contiguous" not in aa.adapt(nn.Conv2d(3, 5, 4, stride=4), like=nn.Conv2d(3, 8, 4, stride=4), inputs=x).code


@pytest.mark.slow
def test_taps_of_a_vit_are_handed_out_in_order():
    x = torch.rand(1, 3, 224, 224)
    net = aa.adapt(timm.create_model("test_vit"), like=timm.create_model("resnet10t", features_only=True), inputs=x)
    assert all(level.is_contiguous() for level in net(x))


class Last(nn.Module):
    """Reads images with their channels last, so that what its convolution returns has them last in memory."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, images):
        return self.conv(images.permute(0, 3, 1, 2))


def test_outputs_whose_channels_are_last_in_memory_need_not_be_contiguous():
    images = torch.rand(2, 32, 40, 3)
    assert not Last()(images).is_contiguous()
    net = aa.adapt(nn.Conv2d(3, 5, 3, 2, 1), like=Last(), inputs=images)
    assert net.signature.contiguous == ()
    assert net.verify().passed
