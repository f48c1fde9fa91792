"""A plain vision transformer inside a bigger model reads images at their own size."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import resnet18
from torchvision.ops.misc import FrozenBatchNorm2d

import autoadapt as aa

VIT = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3}


def grids(model: torch.nn.Module, image: object) -> list[tuple[int, ...]]:
    """Shapes of the tokens behind the last block."""
    seen: list[tuple[int, ...]] = []
    block = next(one for path, one in model.named_modules() if path.endswith("blocks.1"))
    handle = block.register_forward_hook(lambda *call: seen.append(tuple(call[2].shape)))
    with torch.no_grad():
        model.eval()(image)
    handle.remove()
    return seen


@pytest.mark.slow
def test_the_encoder_of_a_unet_sees_every_patch_of_the_image() -> None:
    unet = smp.Unet("resnet18", encoder_weights=None)
    net = aa.swap(unet, "encoder", timm.create_model("vit_tiny_patch16_224", **VIT), inputs=torch.zeros(1, 3, 320, 448))
    cost = net.encoder.plan.source.native
    assert cost.probed == (320, 448)
    assert cost.multiply_adds > 35 * cost.fixed_multiply_adds  # of 20 * 28 patches, not 4 * 4, and more in attention
    assert grids(net, torch.zeros(1, 3, 320, 448)) == [(1, 1 + 20 * 28, 24)]
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 96, 160)).shape == (2, 1, 96, 160)


@pytest.mark.slow  # the tutorial of detectors shows it too
def test_a_detector_s_backbone_sees_every_patch_and_its_levels_are_as_large_as_the_old_ones() -> None:
    layers = {f"layer{i}": str(i - 1) for i in (1, 2, 3, 4)}
    body = BackboneWithFPN(resnet18(norm_layer=FrozenBatchNorm2d), layers, [64, 128, 256, 512], 32)
    model = FasterRCNN(body, num_classes=3, min_size=320, max_size=448).eval()
    image = [torch.rand(3, 320, 448)]
    old = body(torch.zeros(1, 3, 320, 448))
    net = aa.swap(model, "backbone.body", timm.create_model("vit_tiny_patch16_224", **VIT), inputs=image)
    assert grids(net, image) == [(1, 1 + 20 * 28, 24)]
    new = net.backbone(torch.zeros(1, 3, 320, 448))
    assert {key: one.shape for key, one in new.items()} == {key: one.shape for key, one in old.items()}
