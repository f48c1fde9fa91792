"""Old and new modules of the judged pairs, small and without weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
import transformers
from torch import nn
from torchvision.models import segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import autoadapt as aa
from autoadapt.contracts.capturing import capture_source

UNTRAINED: dict[str, Any] = {"weights": None, "weights_backbone": None}


def levels(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, features_only=True, **options)


def person_search(name: str = "resnet50") -> nn.Module:
    """A network whose last stage keeps its stride, without dilation, as those that tell persons apart."""
    model = timm.create_model(name, global_pool="", num_classes=0)
    for layer in (model.layer4[0].conv2, model.layer4[0].downsample[0]):
        layer.stride = (1, 1)
    return model


def segment_anything() -> nn.Module:
    config = transformers.SamVisionConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=224, output_channels=16,
        global_attn_indexes=[1, 3], window_size=7, mlp_dim=64,
    )  # fmt: skip
    return transformers.models.sam.modeling_sam.SamVisionEncoder(config)


def decoder() -> nn.Module:
    model = smp.Unet("resnet18", encoder_weights=None)
    model.segmentation_head = nn.Identity()
    return model


CONTRACTS: dict[str, Callable[[], nn.Module]] = {
    "deeplabv3_resnet50": lambda: segmentation.deeplabv3_resnet50(**UNTRAINED).backbone,
    "fcn_resnet50 with aux": lambda: segmentation.fcn_resnet50(**UNTRAINED, aux_loss=True).backbone,
    "lraspp_mobilenet_v3_large": lambda: segmentation.lraspp_mobilenet_v3_large(**UNTRAINED).backbone,
    "deeplabv3_mobilenet_v3_large": lambda: segmentation.deeplabv3_mobilenet_v3_large(**UNTRAINED).backbone,
    "detr dc5": partial(levels, "resnet50", output_stride=16, out_indices=(4,)),
    "detr": partial(levels, "resnet50", out_indices=(4,)),
    "person search": person_search,
    "siamrpn++": partial(levels, "resnet50", output_stride=8, out_indices=(2, 3, 4)),
    "smp resnet18 at 8": lambda: smp.encoders.get_encoder("resnet18", weights=None, output_stride=8),
    "smp mobilenet_v2 at 16": lambda: smp.encoders.get_encoder("mobilenet_v2", weights=None, output_stride=16),
    "convnext_atto at 8": partial(levels, "convnext_atto", output_stride=8),
    "regnety_002 at 8": partial(levels, "regnety_002", output_stride=8, out_indices=(4,)),
    "segment anything": segment_anything,
    "vit_tiny, four levels": partial(levels, "vit_tiny_patch16_224", out_indices=(2, 5, 8, 11)),
    "smp resnet34, depth 3": lambda: smp.encoders.get_encoder("resnet34", weights=None, depth=3),
    "efficientnet_b0, first three": partial(levels, "efficientnet_b0", out_indices=(0, 1, 2)),
    "resnet101 up to 16": partial(levels, "resnet101", out_indices=(3,)),
    "swin_tiny up to 16": partial(levels, "swin_tiny_patch4_window7_224", out_indices=(0, 1, 2)),
    "densenet121 up to 8": partial(levels, "densenet121", out_indices=(0, 1, 2)),
    "vgg16 up to 8": lambda: torchvision.models.vgg16().features[:23],
    "feature pyramid": lambda: resnet_fpn_backbone(backbone_name="resnet18", weights=None),
    "smp decoder": decoder,
    "hrnet_w18_small": partial(levels, "hrnet_w18_small"),
    "resnet50": partial(levels, "resnet50"),
    "mobilenetv2_050": partial(levels, "mobilenetv2_050"),
}

NEW: dict[str, Callable[[], nn.Module]] = {
    name: partial(timm.create_model, name)
    for name in (
        "resnet18",
        "convnext_atto",
        "swin_tiny_patch4_window7_224",
        "mobilenetv3_small_050",
        "maxvit_rmlp_pico_rw_256",
        "vit_tiny_patch16_224",
    )
}


@cache
def contract(name: str) -> aa.Signature:
    with torch.device("meta"):
        return aa.capture(CONTRACTS[name](), torch.empty(2, 3, 224, 224))


@cache
def offered(name: str) -> aa.Signature:
    with torch.device("meta"):
        return capture_source(NEW[name](), contract("resnet50"), None, inner=True)


@cache
def planned(old: str, new: str) -> aa.Plan:
    return aa.plan(offered(new), contract(old))
