"""What is offered as a region can be swapped."""

import inline_backbones as inline
import pytest
import region_models as written
import torchvision
from small_models import Pyramid, image

import autoadapt as aa


@pytest.mark.sampled(3)
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
