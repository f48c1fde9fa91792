"""The demo: an oriented-detector-like head keeps working while its ResNet-101 is swapped twice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.capturing import capture
from autoadapt.sources import load

__all__ = ["Decoder", "Levels", "demo"]


class Levels(nn.Module):
    """A backbone that returns a list of six: the image itself, then five levels, as oriented detectors have it."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Shape: `[B, 3, H, W]` -> the input, and strides 2 to 32."""
        return [x, *self.features(x)]


class Decoder(nn.Module):
    """Reads the last four levels, each resized to the next finer one; the heads stand at stride 4."""

    def __init__(self, channels: tuple[int, ...] = (256, 512, 1024, 2048), width: int = 64) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        heads = {"hm": 15, "wh": 10, "reg": 2, "cls_theta": 1}
        self.heads = nn.ModuleDict({name: nn.Conv2d(width, count, 3, padding=1) for name, count in heads.items()})

    def forward(self, levels: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Shape: six levels -> `hm [B, 15, h, w]`, `wh` 10, `reg` 2, `cls_theta` 1 at stride 4."""
        skips = [layer(level) for layer, level in zip(self.lateral, levels[-4:], strict=True)]
        merged = skips.pop()
        while skips:
            skip = skips.pop()
            merged = skip + F.interpolate(merged, size=skip.shape[2:], mode="bilinear", align_corners=False)
        return {name: head(merged) for name, head in self.heads.items()}


def demo() -> None:
    """Swap ResNet-101 for ResNet-18 and for MobileNetV2, a plain classifier; print signature, plans and proofs."""
    torch.manual_seed(0)
    old = Levels(load("timm:resnet101", features_only=True)).eval()
    image = torch.randn(1, 3, 256, 256)
    signature = capture(old, image)
    print(f"The old backbone, as it was found by running it:\n\n{signature}\n")
    decoder = Decoder().eval()
    for source in ("timm:resnet18", "torchvision:mobilenet_v2"):
        print(f"{'-' * 80}\nadapt({source}, like=old): the decoder is not touched\n")
        net = adapt(load(source).eval(), like=old, inputs=image).eval()
        print(f"{net.plan}\n")
        for size in (512, 200, 221):
            x = torch.randn(1, 3, size, size)
            with torch.no_grad():
                before, after = decoder(old(x)), decoder(net(x))
            same = all(before[name].shape == after[name].shape for name in before)
            print(f" {size} pixels: heads {list(after['hm'].shape)} {'as before' if same else 'NOT AS BEFORE'}")
        print(f"\n{net.verify(image)}\n")
