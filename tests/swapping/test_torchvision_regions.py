"""torchvision's models by region give what they give by submodule."""

import copy

import pytest
import timm
import torch
from torchvision.models import detection, segmentation

import autoadapt as aa
from autoadapt.contracts.trees import flatten

CHILDREN = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
CASES = {
    "LRASPP": (segmentation.lraspp_mobilenet_v3_large, {}, "backbone", "backbone.0:backbone.16"),
    "DeepLab": (segmentation.deeplabv3_mobilenet_v3_large, {"aux_loss": True}, "backbone", "backbone.0:backbone.16"),
    "FCN": (segmentation.fcn_resnet50, {"aux_loss": True}, "backbone", [f"backbone.{name}" for name in CHILDREN]),
    "Faster R-CNN": (
        detection.fasterrcnn_resnet50_fpn,
        {"min_size": 64, "max_size": 96},
        "backbone.body",
        [f"backbone.body.{name}" for name in CHILDREN],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_region_of_all_children_gives_what_the_submodule_gives(case):
    torch.manual_seed(0)
    kind, options, path, region = CASES[case]
    by_path = kind(weights=None, weights_backbone=None, num_classes=4, **options).eval()
    by_region = copy.deepcopy(by_path)
    images = [torch.rand(3, 64, 80)] if case == "Faster R-CNN" else torch.rand(2, 3, 64, 64)
    new = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    for model, place in ((by_path, path), (by_region, region)):
        aa.swap(model, place, copy.deepcopy(new), inputs=(images,))
    left, right = (next(m for m in one.modules() if isinstance(m, aa.AdaptedModule)) for one in (by_path, by_region))
    assert [route.source for route in left.plan.routes] == [route.source for route in right.plan.routes]
    pairs = zip(left.adapters.parameters(), right.adapters.parameters(), strict=True)
    with torch.no_grad():
        for one, other in pairs:
            other.copy_(one)
        expected, found = (flatten(model(images))[1] for model in (by_path, by_region))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
