"""What is done with a swapped region afterwards: calibrating, folding, saving, verifying, loading."""

import copy

import pytest
import region_models as written
import torch
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa

SPAN = "conv1:layer3"


class Wider(nn.Module):
    """The trunk of a pose network, whose features stand in other channels, so that a projection can be exact."""

    def __init__(self, old):
        super().__init__()
        self.trunk = nn.Sequential(*(copy.deepcopy(part) for part in list(old.children())[:7]))
        self.mixed = nn.Conv2d(24, 32, 1)

    def forward(self, x):
        return self.mixed(self.trunk(x))


@pytest.fixture
def old():
    torch.manual_seed(0)
    return written.PoseNet().eval()


def seg(old):
    """The same trunk under a head that a projection can be folded into."""
    old.deconv = nn.Identity()
    old.final = nn.Conv2d(24, 5, 1)
    return old.eval()


@pytest.mark.parametrize("at", [SPAN, ["conv1", "bn1"], "conv1"])
def test_calibrating_a_region_brings_the_old_answers_back(old, at):
    model = aa.swap(copy.deepcopy(old), SPAN, Wider(old), inputs=image(2, 64, 64))
    data = [torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    found = aa.calibrate(model, like=old, data=data, at=at)
    assert found.written
    assert found.outputs[0].r2 > 0.999
    with torch.no_grad():
        torch.testing.assert_close(model(data[0]), old(data[0]), rtol=1e-2, atol=1e-2)


class WiderEncoder(nn.Module):
    """The encoder of a U-Net, whose levels stand in other channels."""

    def __init__(self, old):
        super().__init__()
        self.blocks = nn.ModuleList(copy.deepcopy([old.enc1, old.enc2, old.enc3, old.enc4]))
        self.mixed = nn.ModuleList(nn.Conv2d(channels, channels + 6, 1) for channels in (4, 8, 12, 16))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        levels = []
        for block, mixed in zip(self.blocks, self.mixed, strict=True):
            x = block(x if not levels else self.pool(x))
            levels.append(mixed(x))
        return levels


def test_several_levels_of_a_region_are_calibrated_each_against_its_own():
    torch.manual_seed(0)
    unet = written.UNet().eval()
    model = aa.swap(copy.deepcopy(unet), "enc1:enc4", WiderEncoder(unet), inputs=image(2, 64, 64))
    data = [torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    found = aa.calibrate(model, like=unet, data=data, at="enc1:enc4")
    assert {one.target: round(one.r2, 2) for one in found.outputs} == {"enc1": 1, "enc2": 1, "enc3": 1, "enc4": 1}
    with torch.no_grad():
        torch.testing.assert_close(model(data[0]), unet(data[0]), rtol=1e-2, atol=1e-2)


def test_a_region_is_not_calibrated_without_the_whole_old_model(old):
    model = aa.swap(copy.deepcopy(old), SPAN, Wider(old), inputs=image(2, 64, 64))
    with pytest.raises(aa.CalibrationError, match="a region is calibrated with the model that it was a part of"):
        aa.calibrate(model, like=old.layer3, data=[image(2, 64, 64)], at=SPAN)


def test_a_projection_of_a_region_is_folded_into_what_reads_it(old):
    model = aa.swap(seg(old), SPAN, Pyramid(6, 12, 20, 28), inputs=image(2, 64, 64))
    folded = aa.fold(model, at=SPAN, inputs=image(2, 64, 64))
    assert (folded.final.in_channels, model.final.in_channels) == (28, 24)
    assert not list(folded.conv1.adapters.parameters())
    with torch.no_grad():
        torch.testing.assert_close(folded(image(2, 80, 96)), model(image(2, 80, 96)), rtol=1e-4, atol=1e-5)


def test_on_its_own_the_adapted_module_is_verified_saved_and_restored_with_all_that_it_returns(old, tmp_path):
    model = aa.swap(old, SPAN, Pyramid(6, 12, 20, 28), inputs=image(2, 64, 64)).eval()
    assert model.conv1.verify().passed
    aa.save(model.conv1, tmp_path / "net")
    restored = aa.restore(tmp_path / "net", new=Pyramid(6, 12, 20, 28))
    with torch.no_grad():
        torch.testing.assert_close(restored(image(2, 64, 64)), model.conv1.alone()(image(2, 64, 64)))
    assert restored(image(2, 64, 64)).shape == (2, 24, 4, 4)


def test_weights_of_the_new_module_are_loaded_into_the_region(old):
    torch.manual_seed(1)
    new = Pyramid(6, 12, 20, 28)
    model = aa.swap(old, SPAN, Pyramid(6, 12, 20, 28), inputs=image(2, 64, 64))
    aa.transfer({f"conv1.backbone.{name}": t for name, t in new.state_dict().items()}, model)
    torch.testing.assert_close(model.conv1.backbone.stages[0][0].weight, new.stages[0][0].weight)


def test_a_region_is_swapped_again(old):
    model = aa.swap(old, SPAN, Pyramid(6, 12, 20, 28), inputs=image(2, 64, 64))
    shape = model(image(2, 64, 64)).shape
    aa.swap(model, SPAN, Pyramid(4, 8, 12, 16), inputs=image(2, 64, 64))
    assert model.conv1.backbone.out_channels == [4, 8, 12, 16]
    assert model(image(2, 64, 64)).shape == shape
