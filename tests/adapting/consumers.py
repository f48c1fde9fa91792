"""Real models that consume a backbone, small and with random weights: how to make them, where it stands, a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torchvision.models import detection, segmentation

SCENE = [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))]
BATCH = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
BOXES = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1]), "masks": torch.ones(1, 64, 96)}]


@dataclass(frozen=True)
class Consumer:
    """One model."""

    make: Callable[[], nn.Module]
    path: str
    inputs: Any
    loss: Callable[[nn.Module], torch.Tensor]
    """Of one training step."""


def _detector(make: Callable[..., nn.Module]) -> nn.Module:
    return make(weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=96)


def _detection_loss(model: nn.Module) -> torch.Tensor:
    return sum(model(SCENE, BOXES).values())


def _segmentation_loss(model: nn.Module) -> torch.Tensor:
    made = model(BATCH)
    outputs = made.values() if isinstance(made, dict) else [made]
    return sum(F.cross_entropy(output, torch.zeros(2, 64, 64, dtype=torch.long)) for output in outputs)


def _resnet() -> transformers.ResNetConfig:
    return transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )


def _detr() -> nn.Module:
    return transformers.DetrForObjectDetection(
        transformers.DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=_resnet(),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_queries=5,
            num_labels=3,
        )
    )


def _upernet() -> nn.Module:
    stages = [f"stage{i}" for i in range(1, 5)]
    backbone = transformers.ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_stages=4, out_features=stages
    )
    return transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone_config=backbone,
            hidden_size=16,
            pool_scales=[1, 2],
            auxiliary_in_channels=24,
            auxiliary_channels=8,
            num_labels=3,
        )
    )


def _mask2former() -> nn.Module:
    stages = [f"stage{i}" for i in range(1, 5)]
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2, out_features=stages
    )
    return transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone_config=backbone,
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_feedforward_dim=16,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            dim_feedforward=16,
            num_queries=4,
            num_labels=3,
        )
    )


def _detr_loss(model: nn.Module) -> torch.Tensor:
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])} for _ in range(2)]
    return model(BATCH, labels=labels).loss


def _upernet_loss(model: nn.Module) -> torch.Tensor:
    return model(BATCH, labels=torch.zeros(2, 64, 64, dtype=torch.long)).loss


def _mask2former_loss(model: nn.Module) -> torch.Tensor:
    masks, labels = [torch.ones(1, 64, 64)] * 2, [torch.tensor([1])] * 2
    return model(BATCH, mask_labels=masks, class_labels=labels).loss


CONSUMERS = {
    "fasterrcnn body": Consumer(
        lambda: _detector(detection.fasterrcnn_resnet50_fpn), "backbone.body", SCENE, _detection_loss
    ),
    "retinanet": Consumer(lambda: _detector(detection.retinanet_resnet50_fpn), "backbone.body", SCENE, _detection_loss),
    "deeplabv3": Consumer(
        lambda: segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True, num_classes=4),
        "backbone",
        BATCH,
        _segmentation_loss,
    ),
    "smp Unet": Consumer(
        lambda: smp.Unet("resnet18", encoder_weights=None, classes=4), "encoder", BATCH, _segmentation_loss
    ),
    "smp FPN": Consumer(
        lambda: smp.FPN("resnet18", encoder_weights=None, classes=4), "encoder", BATCH, _segmentation_loss
    ),
    "smp DeepLabV3Plus": Consumer(
        lambda: smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=4), "encoder", BATCH, _segmentation_loss
    ),
    "Detr": Consumer(_detr, "model.backbone.model", BATCH, _detr_loss),
    "UperNet": Consumer(_upernet, "backbone", BATCH, _upernet_loss),
    "Mask2Former": Consumer(_mask2former, "model.pixel_level_module.encoder", BATCH, _mask2former_loss),
    "fasterrcnn": Consumer(lambda: _detector(detection.fasterrcnn_resnet50_fpn), "backbone", SCENE, _detection_loss),
    "maskrcnn": Consumer(lambda: _detector(detection.maskrcnn_resnet50_fpn), "backbone.body", SCENE, _detection_loss),
}
