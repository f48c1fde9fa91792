"""Torchvision's segmentation models with another backbone, exported: `python -m benchmarks.segmentation_exports`."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torchvision.models import segmentation

import autoadapt as aa

NAMES = ("fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large")
FORMATS = {"ONNX": ".onnx", "torch.export": ".pt2"}


def main() -> None:
    """Print a row for each model: seconds, and the largest difference from the module over the sizes that were run."""
    images = torch.randn(1, 3, 96, 96)
    print(f"| model | {' | '.join(FORMATS)} |\n|---|{'---|' * len(FORMATS)}")
    for name in NAMES:
        old = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=3)
        old.eval()
        model = aa.swap(old, "backbone", aa.load("timm:resnet18"), inputs=images)
        cells = []
        for ending in FORMATS.values():
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                found = aa.export(model, Path(folder) / f"model{ending}", inputs=images)
            worst = max(one.difference for one in found.compared)
            cells.append(f"{time.perf_counter() - started:.0f} s, {worst:.1e}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
