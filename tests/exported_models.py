"""Ten adapted models that leave autoadapt by every way out: folders, source, `torch.export`, ONNX, TorchScript."""

from __future__ import annotations

from functools import cache
from typing import Any

from point_clouds import READ, PointNet, cloud
from saved_models import LEVELS, POINTS, Made, Recipe, contract, images, trained
from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import autoadapt as aa
from autoadapt.sources import load_backbone

ALLOW = ["point_clouds"]


def classifier(name: str, **options: Any) -> nn.Module:
    """A plain classifier of timm, of which inner blocks are tapped."""
    return aa.load(f"timm:{name}", **options)


def features(name: str, **options: Any) -> nn.Module:
    return aa.load(f"timm:{name}", features_only=True, **options)


SMALL_VIT = {"depth": 3, "embed_dim": 96, "num_heads": 3}

KINDS: dict[str, Recipe] = {
    "convolutions": lambda: (features("resnet10t"), features("resnet18"), (images(),), {}),
    "depthwise convolutions": lambda: (classifier("lcnet_035"), contract(LEVELS), (images(),), {}),
    "windows, channels last": lambda: (
        classifier("swin_tiny_patch4_window7_224", depths=(1, 1), num_heads=(3, 6), embed_dim=48),
        contract(LEVELS),
        (images(),),
        {"resolution": "fixed"},
    ),
    "tokens with taps": lambda: (
        classifier("vit_tiny_patch16_224", dynamic_img_size=True, **SMALL_VIT),
        contract(LEVELS),
        (images(),),
        {},
    ),
    "tokens at one image size": lambda: (
        classifier("vit_tiny_patch16_224", **SMALL_VIT),
        contract(LEVELS),
        (images(),),
        {"resolution": "fixed"},
    ),
    "patches of 14": lambda: (
        classifier("vit_small_patch14_dinov2", img_size=98, dynamic_img_size=True, **SMALL_VIT),
        contract(LEVELS),
        (images(),),
        {},
    ),
    "an ordered dict, as of a feature pyramid": lambda: (
        features("convnext_atto", depths=(1, 1, 1, 1)),
        resnet_fpn_backbone(backbone_name="resnet18", weights=None),
        (images(),),
        {},
    ),
    "a class of transformers with a tuple in it": lambda: (
        features("resnet10t"),
        load_backbone("hf:convnext", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
        (images(),),
        {},
    ),
    "grey images": lambda: (features("resnet10t"), contract({"c3": LEVELS[1]}, channels=1), (images(1),), {}),
    "points": lambda: (
        aa.load(POINTS, allow=ALLOW, together=True),
        PointNet(),
        (cloud(),),
        {"outputs": READ},
    ),
}


@cache
def exported(kind: str) -> Made:
    """The adapted module of a kind, trained for a step; nobody changes it."""
    return trained(KINDS[kind])
