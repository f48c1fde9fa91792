"""A YOLO of ultralytics with another backbone, trained by its own trainer.

`python examples/ultralytics_backbone.py data.yaml`. The trainer builds its model anew from the yaml, so that the swap
belongs into `get_model`. `model.0:model.9` is the backbone of a YOLOv8 or YOLOv5, `model.0:model.10` that of a YOLO11.
"""

from __future__ import annotations

import sys
from typing import Any

import timm
import torch
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

import autoadapt as aa


class SwappedTrainer(DetectionTrainer):
    """Trains the model of its yaml with a ResNet-18 in the place of the backbone."""

    region = "model.0:model.9"

    @staticmethod
    def new() -> Any:
        """What to put there; `pretrained=True` for ImageNet weights."""
        return timm.create_model("resnet18", pretrained=False, num_classes=0)

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        model = super().get_model(cfg, weights, verbose)
        return aa.swap(model, self.region, self.new(), inputs=torch.zeros(1, 3, 128, 128))


def main(data: str, yaml: str = "yolov8n.yaml", **options: Any) -> YOLO:
    """Train, and return the object that predicts, validates and exports."""
    model = YOLO(yaml)
    model.train(trainer=SwappedTrainer, data=data, **options)
    return model


if __name__ == "__main__":
    main(sys.argv[1], epochs=1, imgsz=128)
