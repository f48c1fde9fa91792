"""Boxes of a detector whose new backbone reads padded images lie where the old ones lay, in pixels of the image."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

import autoadapt as aa

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 4}


class Body(nn.Module):
    """A plain vision transformer in timm's own mode for all sizes, which pads below and to the right."""

    out_channels = 24

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model("vit_tiny_patch16_224", **VIT, dynamic_img_size=True, dynamic_img_pad=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.vit.forward_intermediates(x, indices=1, intermediates_only=True)[0]


def detector() -> FasterRCNN:
    anchors = AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),))
    pooled = MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=2)
    sizes = {"min_size": 75, "max_size": 200, "box_score_thresh": 0.0, "box_detections_per_img": 20}
    made = FasterRCNN(Body(), 3, rpn_anchor_generator=anchors, box_roi_pool=pooled, **sizes)
    made.transform.size_divisible = 1  # so that the backbone is given what is no multiple of its patches
    return made.eval()


@pytest.mark.slow
def test_a_detector_finds_the_same_boxes_behind_a_backbone_that_is_padded_for() -> None:
    torch.manual_seed(0)
    model = detector()
    images = [torch.rand(3, 75, 101)]
    tied = timm.create_model("vit_tiny_patch16_224", **VIT)
    tied.load_state_dict(model.backbone.vit.state_dict())
    with torch.no_grad():
        wanted = model(images)[0]
    assert len(wanted["boxes"]) == 20
    net = aa.swap(model, "backbone", tied, inputs=images, convert_inputs=("size",)).eval()
    route = net.backbone.plan.inputs[0]
    assert [(step.op, *map(str, getattr(step, "dims", ()))) for step in route.steps] == [
        ("native",),
        ("pad", "8*ceil(H/8)", "8*ceil(W/8)"),
    ]
    with torch.no_grad():
        found = net(images)[0]
    assert torch.allclose(found["boxes"], wanted["boxes"], atol=1e-4)
    assert torch.equal(found["labels"], wanted["labels"])


class Brightest(nn.Module):
    """Finds the brightest of the backbone's cells and returns its box in pixels: left, top, right, bottom."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cells = self.backbone(x)[0, 0]
        row, column = divmod(int(cells.argmax()), cells.shape[1])
        return torch.tensor([column, row, column + 1, row + 1]) * 8


class Cells(nn.Module):
    """Means of cells of 8 pixels; the image is padded to whole cells, or must be a multiple of four of them."""

    def __init__(self, *, is_strict: bool) -> None:
        super().__init__()
        self.is_strict = is_strict
        self.mean = nn.Conv2d(3, 1, 8, stride=8, bias=False)
        nn.init.constant_(self.mean.weight, 1 / 192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        if self.is_strict and (height % 32 or width % 32):
            raise ValueError("multiples of 32")
        return self.mean(F.pad(x, (0, -width % 8, 0, -height % 8)))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("place", [(0, 0), (40, 24), (72, 96)])
def test_a_box_at_a_known_place_comes_back_there(place: tuple[int, int]) -> None:
    image = torch.rand(1, 3, 75, 101) * 0.1
    top, left = place
    image[:, :, top : top + 8, left : left + 8] = 9
    model = Brightest(Cells(is_strict=False)).eval()
    wanted = [left, top, left + 8, top + 8]
    assert model(image).tolist() == wanted
    net = aa.swap(model, "backbone", Cells(is_strict=True), inputs=image, fit="pad").eval()
    assert [step.op for step in net.backbone.plan.inputs[0].steps] == ["pad"]
    assert net(image).tolist() == wanted
