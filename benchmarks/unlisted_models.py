"""Models that bring no list of their levels, of four packages, small and with random weights.

A name is `package/model`. Which of their modules end a stage stands in `judged_taps.json`, see `judging.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["create_unlisted", "package_of"]

IMAGE = torch.Size((2, 3, 224, 224))
PLAIN = {"image_size": 224, "patch_size": 16, "num_classes": 10, "dim": 64, "depth": 4, "heads": 2, "mlp_dim": 128}
"""What a plain transformer of vit-pytorch takes."""

VIT_PYTORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", PLAIN),
    "simple_vit": ("SimpleViT", PLAIN),
    "deepvit": ("DeepViT", PLAIN),
    "cait": ("CaiT", PLAIN | {"cls_depth": 2}),
    "parallel_vit": ("ViT", PLAIN),
    "vit_for_small_dataset": ("ViT", PLAIN),
    "learnable_memory_vit": ("ViT", PLAIN),
    "vit_with_patch_dropout": ("ViT", PLAIN),
    "simple_vit_with_qk_norm": ("SimpleViT", PLAIN),
    "simple_vit_with_register_tokens": ("SimpleViT", PLAIN),
    "simple_vit_with_value_residual": ("SimpleViT", PLAIN),
    "rvt": ("RvT", PLAIN),
    "xcit": ("XCiT", PLAIN | {"cls_depth": 2}),
    "cct": ("CCT", {"embedding_dim": 64, "n_conv_layers": 2, "num_layers": 4, "num_heads": 2, "num_classes": 10}),
    "t2t": ("T2TViT", {key: value for key, value in PLAIN.items() if key != "patch_size"}),
    "cvt": ("CvT", {"num_classes": 10, "s1_emb_dim": 32, "s2_emb_dim": 48, "s3_emb_dim": 64, "s3_depth": 3}),
    "crossformer": ("CrossFormer", {"num_classes": 10, "dim": (32, 64, 96, 128), "depth": (1, 1, 2, 1)}),
    "levit": (
        "LeViT",
        {"image_size": 224, "num_classes": 10, "dim": (64, 96, 128), "depth": 2, "heads": (2, 3, 4), "mlp_mult": 2},
    ),
    "max_vit": ("MaxViT", {"num_classes": 10, "dim": 32, "depth": (1, 1, 2, 1)}),
    "mobile_vit": (
        "MobileViT",
        {
            "image_size": (256, 256),
            "dims": [48, 64, 80],
            "channels": [16, 16, 24, 24, 48, 48, 64, 64, 80, 80, 160],
            "num_classes": 10,
        },
    ),
    "nest": (
        "NesT",
        {
            "image_size": 224,
            "patch_size": 4,
            "num_classes": 10,
            "dim": 48,
            "heads": 3,
            "num_hierarchies": 3,
            "block_repeats": (1, 1, 2),
        },
    ),
    "pit": (
        "PiT",
        {
            "image_size": 224,
            "patch_size": 16,
            "num_classes": 10,
            "dim": 48,
            "depth": (2, 2, 2),
            "heads": 2,
            "mlp_dim": 96,
        },
    ),
    "scalable_vit": (
        "ScalableViT",
        {
            "num_classes": 10,
            "dim": 32,
            "depth": (1, 1, 2, 1),
            "heads": 2,
            "reduction_factor": (8, 4, 2, 1),
            "window_size": (7, 7, 7, 7),
        },
    ),
    "sep_vit": ("SepViT", {"num_classes": 10, "dim": 32, "depth": (1, 1, 2, 1), "heads": (1, 2, 2, 4)}),
    "twins_svt": ("TwinsSVT", {"num_classes": 10, "s3_depth": 2, "s4_depth": 2}),
}

WITH_HIDDEN_SIZE = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 224,
    "patch_size": 16,
}
"""What a plain transformer of transformers takes."""
FOUR_STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}
WINDOWS = {"embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [2, 2, 4, 4], "image_size": 224}

TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("BeitForImageClassification", WITH_HIDDEN_SIZE),
    "bit": ("BitForImageClassification", FOUR_STAGES | {"embedding_size": 16, "num_groups": 4}),
    "clip": ("CLIPForImageClassification", {"vision_config": WITH_HIDDEN_SIZE}),
    "convnext": ("ConvNextForImageClassification", FOUR_STAGES),
    "convnextv2": ("ConvNextV2ForImageClassification", FOUR_STAGES),
    "cvt": ("CvtForImageClassification", {"embed_dim": [16, 48, 96], "num_heads": [1, 3, 6], "depth": [1, 2, 3]}),
    "data2vec-vision": ("Data2VecVisionForImageClassification", WITH_HIDDEN_SIZE),
    "deit": ("DeiTForImageClassification", WITH_HIDDEN_SIZE),
    "dinov2": ("Dinov2ForImageClassification", WITH_HIDDEN_SIZE),
    "dinov2_with_registers": ("Dinov2WithRegistersForImageClassification", WITH_HIDDEN_SIZE),
    "efficientnet": (
        "EfficientNetForImageClassification",
        {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    ),
    "focalnet": ("FocalNetForImageClassification", {"embed_dim": 24, "depths": [1, 1, 2, 1], "image_size": 224}),
    "hgnet_v2": ("HGNetV2ForImageClassification", {}),
    "ijepa": ("IJepaForImageClassification", WITH_HIDDEN_SIZE),
    "levit": (
        "LevitForImageClassification",
        {"hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [2, 2, 2]},
    ),
    "mobilenet_v1": ("MobileNetV1ForImageClassification", {"depth_multiplier": 0.25}),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", {"depth_multiplier": 0.35}),
    "mobilevit": ("MobileViTForImageClassification", {"hidden_sizes": [32, 48, 64], "image_size": 256}),
    "mobilevitv2": ("MobileViTV2ForImageClassification", {"width_multiplier": 0.25, "image_size": 256}),
    "poolformer": ("PoolFormerForImageClassification", FOUR_STAGES),
    "pp_lcnet": ("PPLCNetForImageClassification", {"scale": 0.25}),
    "pvt": ("PvtForImageClassification", FOUR_STAGES | {"num_attention_heads": [1, 2, 2, 4]}),
    "pvt_v2": ("PvtV2ForImageClassification", FOUR_STAGES | {"num_attention_heads": [1, 2, 2, 4]}),
    "regnet": ("RegNetForImageClassification", FOUR_STAGES | {"embedding_size": 16, "groups_width": 8}),
    "resnet": ("ResNetForImageClassification", FOUR_STAGES | {"embedding_size": 16}),
    "segformer": (
        "SegformerForImageClassification",
        FOUR_STAGES | {"num_attention_heads": [1, 2, 2, 4]},
    ),
    "siglip": ("SiglipForImageClassification", {"vision_config": WITH_HIDDEN_SIZE}),
    "swiftformer": ("SwiftFormerForImageClassification", {"embed_dims": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}),
    "swin": ("SwinForImageClassification", WINDOWS),
    "swinv2": ("Swinv2ForImageClassification", WINDOWS | {"image_size": 256, "window_size": 8}),
    "textnet": ("TextNetForImageClassification", {}),
    "vit": ("ViTForImageClassification", WITH_HIDDEN_SIZE),
    "vit_msn": ("ViTMSNForImageClassification", WITH_HIDDEN_SIZE),
}

PYTORCHCV = (
    "resnet18", "preresnet18", "seresnet18", "vgg11", "densenet121", "mobilenet_wd4", "mobilenetv2_wd4",
    "mobilenetv3_small_w7d20", "shufflenetv2_wd2", "squeezenet_v1_1", "efficientnet_b0", "regnetx002", "darknet53",
    "mnasnet_small", "vovnet27s", "dla34", "peleenet", "bninception",
)  # fmt: skip

ULTRALYTICS = ("yolov8n-cls", "yolo11n-cls", "yolov8n", "yolov5n", "yolo11n")


def create_vit_pytorch(name: str) -> nn.Module:
    kind, arguments = VIT_PYTORCH[name]
    model: nn.Module = getattr(importlib.import_module(f"vit_pytorch.{name}"), kind)(**arguments)
    return model


def create_transformers_classifier(name: str) -> nn.Module:
    import transformers

    kind, arguments = TRANSFORMERS[name]
    config = transformers.AutoConfig.for_model(name, **arguments)
    model: nn.Module = getattr(transformers, kind)(config)
    return model


def create_pytorchcv(name: str) -> nn.Module:
    from pytorchcv.model_provider import get_model

    model: nn.Module = get_model(name, pretrained=False)
    return model


def create_ultralytics(name: str) -> nn.Module:
    from ultralytics.nn import tasks

    kind = tasks.ClassificationModel if name.endswith("-cls") else tasks.DetectionModel
    model: nn.Module = kind(f"{name}.yaml", verbose=False)
    return model


PACKAGES: dict[str, Callable[[str], nn.Module]] = {
    "vit_pytorch": create_vit_pytorch,
    "transformers": create_transformers_classifier,
    "pytorchcv": create_pytorchcv,
    "ultralytics": create_ultralytics,
}


def package_of(name: str) -> str:
    """The package that a name such as `pytorchcv/resnet18` is of."""
    return name.partition("/")[0]


def create_unlisted(name: str) -> tuple[nn.Module, Any]:
    """The model of a name such as `pytorchcv/resnet18`, and inputs of its usual size."""
    package, _, model = name.partition("/")
    size = 256 if model in ("mobile_vit", "mobilevit", "mobilevitv2", "swinv2") else 224
    return PACKAGES[package](model), torch.empty(2, 3, size, size)
