"""Regions of which one module after the other returns the same tensor: each reader gets what it read."""

import copy

import pytest
import torch
from region_models import by_hand
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa

REGION = "conv1:conv3"


class Handing(nn.Module):
    """The rest reads what goes into a layer that hands on the tensor that it is given."""

    def __init__(self, layer, after=False):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.layer, self.conv3 = layer, nn.Conv2d(12, 16, 3, 2, 1)
        self.head, self.deep = nn.Conv2d(12, 2, 1), nn.Conv2d(16, 2, 1)
        self.after = after

    def forward(self, x):
        middle = self.conv2(self.conv1(x))
        after = self.layer(middle)
        deep = self.deep(self.conv3(after))
        return self.head(middle), deep, self.head(after if self.after else middle)


LAYERS = {"ReLU in place": nn.ReLU(inplace=True), "Identity": nn.Identity(), "Dropout": nn.Dropout()}


def named(net):
    return {one.path: one.names[0] for one in net.hand_on.handing.order if one.names[0]}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("layer", LAYERS)
def test_what_an_earlier_module_returns_is_read_there_though_a_later_one_returns_the_same_tensor(layer):
    torch.manual_seed(0)
    old = Handing(LAYERS[layer])
    model = aa.swap(copy.deepcopy(old), REGION, Pyramid(6, 12, 20), inputs=image(2, 64, 64)).eval()
    assert named(model.conv1) == {"conv2": "conv2", "conv3": "conv3"}
    x = image(2, 80, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(x), by_hand(old, model.conv1, x), rtol=0, atol=0)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("layer", LAYERS)
def test_one_tensor_that_is_read_at_two_modules_is_one_level(layer):
    torch.manual_seed(0)
    old = Handing(LAYERS[layer], after=True).eval()
    model = aa.swap(copy.deepcopy(old), REGION, Pyramid(6, 12, 20), inputs=image(2, 64, 64))
    assert named(model.conv1) == {"conv2": "conv2", "layer": "layer", "conv3": "conv3"}
    with torch.no_grad():
        first, _, second = model(image(2, 80, 96))
    assert torch.equal(first, second)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_swapped_region_reads_alike_when_it_is_captured_and_swapped_again(layer):
    torch.manual_seed(0)
    x = image(2, 64, 64)
    model = aa.swap(Handing(LAYERS[layer]), REGION, Pyramid(6, 12, 20), inputs=x).eval()
    contract = aa.capture(model, x, region=REGION)
    assert list(contract.outputs.paths) == ["conv2", "conv3"]
    assert named(aa.swap(model, REGION, Pyramid(8, 10, 12), inputs=x).conv1) == {"conv2": "conv2", "conv3": "conv3"}
