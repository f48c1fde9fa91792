"""Regions in models of other fields: the values are those of the new module's levels in the old model's wiring."""

import copy

import inline_backbones as inline
import pytest
import torch
from region_models import by_hand
from small_models import Pyramid, image
from torch.utils._pytree import tree_leaves

import autoadapt as aa

STEM = ["conv1", "bn1", "conv2", "bn2", "relu", "layer1"]
CASES = {
    "high resolution pose, stem": (inline.HighResolutionPose, STEM, ["layer1"]),
    "high resolution pose, branches": (inline.HighResolutionPose, "conv1:branches", ["branches_0", "branches_1"]),
    "CenterNet": (inline.CenterNet, "base_layer:level4", ["level2", "level3", "level4"]),
    "SSD by slices": (inline.SlicedSSD, ["features"], ["8", "13"]),
    "text detector": (inline.TextDetector, ["stages"], ["0", "1", "2", "3"]),
    "U-Net of a course": (inline.CourseUNet, ["downs", "pool"], ["0", "1", "2"]),
    "U-Net of a course with its bottleneck": (
        inline.CourseUNet,
        "downs.0:bottleneck",
        ["downs_0", "downs_1", "downs_2", "bottleneck"],
    ),
    "discriminator": (inline.Discriminator, "conv0:conv2", ["conv0", "conv1", "conv2"]),
    "children walked by name": (inline.Walked, "stem:stage3", ["stage2", "stage3"]),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", CASES)
def test_the_model_of_another_field_reads_the_levels_at_every_size_and_trains(case):
    torch.manual_seed(0)
    kind, region, read = CASES[case]
    old = kind()
    model = aa.swap(copy.deepcopy(old), region, Pyramid(6, 12, 20, 28, 30), inputs=image(2, 64, 64)).eval()
    net = next(one for one in model.modules() if isinstance(one, aa.AdaptedModule))
    order = net.hand_on.handing.order
    assert [n for one in order for n, is_read in zip(one.names, one.read, strict=True) if is_read] == read
    for height, width in ((64, 64), (80, 96), (128, 64)):
        x = image(2, height, width)
        with torch.no_grad():
            torch.testing.assert_close(model(x), by_hand(old, net, x), rtol=0, atol=0)
    sum(one.sum() for one in tree_leaves(model.train()(image(2, 64, 64)))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("kind", "path"), [(inline.TextDetector, "stages"), (inline.SlicedSSD, "features")])
def test_a_container_that_is_only_walked_is_offered_as_a_region(kind, path):
    report = aa.swap(kind(), path, Pyramid(6, 12, 20, 28, 30), inputs=image(2, 64, 64), dry_run=True)
    assert not report.passed
    assert f'swap(model, ["{path}"], ...)  # the layers inside, as one region' in str(report).replace("\n", " ")
