"""What is offered as a region can be swapped."""

import inline_backbones as inline
import pytest
import region_models as written
import torch
import torchvision
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (written.PoseNet, ["conv1:layer3"]),
        (written.UNet, ["enc1:middle"]),
        (written.PSPNet, ["layer0:layer4"]),
        (written.SSD, ["vgg.0:extras.1", "vgg.0:vgg.10"]),
        (written.Crossing, ["conv1:layer2"]),
        (inline.SlicedSSD, ["features.0:features.8"]),
        (inline.CourseUNet, ["downs.0:bottleneck", "downs.0:downs.2"]),
    ],
)
def test_the_part_whose_maps_get_no_larger_is_offered_and_can_be_swapped(kind, expected):
    found = aa.regions(kind().eval(), image(2, 64, 64))
    assert found[: len(expected)] == expected
    assert aa.swap(kind(), found[0], Pyramid(6, 12, 20, 28, 30), inputs=image(2, 64, 64)) is not None


@pytest.mark.slow
def test_a_whole_network_in_the_place_of_a_stage_is_said_with_the_region_that_was_probably_meant():
    model = torchvision.models.resnet18(weights=None)
    report = aa.swap(model, "layer4", Pyramid(6, 12), inputs=image(2, 64, 64), dry_run=True)
    assert report.parts[0].remarks[-1] == (
        "a whole network stands in the place of a stage: `layer4` is given 256 channels, and Pyramid is made for 3; "
        'perhaps the region is meant: swap(model, "conv1:layer4", ...)'
    )
    report = aa.swap(model, "conv1:layer4", Pyramid(6, 12), inputs=image(2, 64, 64), dry_run=True)
    assert "whole network" not in str(report)


def test_a_classifier_s_region_ends_before_it_pools_and_a_submodule_is_no_region():
    assert aa.regions(torchvision.models.resnet18(weights=None), image(2, 64, 64))[0] == "conv1:layer4"
    model = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None)
    assert aa.regions(model.eval(), image(1, 64, 64)) == []


class TwoHeads(nn.Module):
    """Two heads read the last map, in one of the ways in which detectors have them."""

    def __init__(self, how):
        super().__init__()
        self.conv1, self.layer1, self.layer2 = (nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 8), (8, 12), (12, 16)))
        self.cls, self.box, self.side = nn.Conv2d(16, 5, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(12, 5, 1)
        self.how = how

    def forward(self, x):
        middle = self.layer1(self.conv1(x)).relu()
        deep = self.layer2(middle).relu()
        match self.how:
            case "pair":
                return self.cls(deep), self.box(deep)
            case "joined":
                return torch.cat([self.box(deep), self.cls(deep)], 1)
            case "side":
                return self.cls(deep), self.side(middle)
        return self.cls(deep) + self.cls(deep.flip(-1)).flip(-1)


@pytest.mark.parametrize("how", ["pair", "joined", "side", "called twice"])
def test_heads_of_the_last_map_are_no_part_of_the_region_that_is_offered(how):
    assert aa.regions(TwoHeads(how), image(2, 64, 64)) == ["conv1:layer2"]


def test_a_pattern_whose_matches_run_one_after_the_other_is_warned_of_and_each_is_replaced_alone():
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3, 1, 1) for _ in range(3)), nn.Conv2d(3, 2, 1))
    text = (
        "0, 1, 2 run one after the other, and each is replaced alone; to put one module in the place of all of them: "
        'swap(model, "0:2", ...)'
    )
    with pytest.warns(UserWarning, match="0, 1, 2 run one after the other"):
        report = aa.swap(model, "[012]", nn.Conv2d(3, 6, 3, 1, 1), inputs=image(), dry_run=True)
    assert report.parts[0].remarks[-1] == text
    assert len(report.parts) == 3


def test_a_pattern_whose_matches_run_side_by_side_is_not():
    report = aa.swap(TwoHeads("pair"), "[cb]*[sx]", nn.Conv2d(16, 6, 1), inputs=image(2, 64, 64), dry_run=True)
    assert [part.path for part in report.parts] == ["cls", "box"]
    assert "one after the other" not in str(report)


@pytest.mark.slow
def test_what_is_wrong_at_several_matches_of_a_pattern_is_said_with_their_places():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    with pytest.raises(aa.SwapError) as raised:
        aa.swap(model, "*", nn.Linear(7, 4), inputs=image())
    assert [line.split(":")[0] for line in str(raised.value).splitlines() if line.startswith(("0", "1"))] == ["0", "1"]
