"""Literal configs of the OpenMMLab family."""

from __future__ import annotations

import copy
from typing import Any

SMALL = "f32[B, 3, 32, 32]"

LITERAL: dict[str, Any] = {
    "backbone": {"type": "ResNet", "depth": 50, "num_stages": 4, "out_indices": (3,), "style": "pytorch"},
    "neck": {"type": "GlobalAveragePooling"},
    "head": {
        "type": "LinearClsHead",
        "num_classes": 1000,
        "in_channels": 2048,
        "loss": {"type": "CrossEntropyLoss", "loss_weight": 1.0},
        "topk": (1, 5),
    },
}

SWIN: dict[str, Any] = {
    "type": "ImageClassifier",
    "backbone": {
        "type": "SwinTransformer",
        "arch": {"embed_dims": 24, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2]},
        "img_size": 32,
        "patch_size": 2,
        "window_size": 2,
        "drop_path_rate": 0.0,
    },
    "neck": {"type": "GlobalAveragePooling"},
    "head": {
        "type": "LinearClsHead",
        "num_classes": 10,
        "in_channels": 192,
        "init_cfg": None,
        "loss": {"type": "LabelSmoothLoss", "label_smooth_val": 0.1, "mode": "original"},
        "cal_acc": False,
    },
    "init_cfg": [{"type": "TruncNormal", "layer": "Linear", "std": 0.02, "bias": 0.0}],
    "train_cfg": {"augments": [{"type": "Mixup", "alpha": 0.8}]},
}


def _literal(backbone: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(LITERAL) | {"input": SMALL} | changes
    return made | ({"backbone": backbone} if backbone is not None else {})
