"""The demo: an oriented-detector-like head keeps working while its ResNet-101 is swapped twice."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification import Verification
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.sources import load


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


class Swapped(MadeByHand):
    """One swap of the demo."""

    source: str
    plan: Plan
    heads: dict[int, bool]
    """By pixels of the image, whether the heads answered in the shapes they had before."""
    verification: Verification


def demo(*, quiet: bool = False) -> list[Swapped]:
    """Swap ResNet-101 for ResNet-18 and for MobileNetV2, a plain classifier; print signature, plans and proofs.

    Args:
        quiet: Print nothing.
    """
    torch.manual_seed(0)
    say: Callable[[str], None] = (lambda text: None) if quiet else print
    old = in_eval_mode(Levels(load("timm:resnet101", features_only=True)))
    image = torch.randn(1, 3, 256, 256)
    say(f"The old backbone, as it was found by running it:\n\n{capture(old, image)}\n")
    decoder = in_eval_mode(Decoder())
    shown = []
    for source in ("timm:resnet18", "torchvision:mobilenet_v2"):
        say(f"{'-' * 80}\nadapt({source}, like=old): the decoder is not touched\n")
        net = adapt(in_eval_mode(load(source)), like=old, inputs=image)
        say(f"{net.plan}\n")
        heads = {size: _decoded(in_eval_mode(net), old, decoder, size, say) for size in (512, 200, 221)}
        report = net.verify(image)
        say(f"\n{report}\n")
        shown.append(Swapped(source=source, plan=net.plan, heads=heads, verification=report))
    return shown


def _decoded(net: nn.Module, old: nn.Module, decoder: nn.Module, size: int, say: Callable[[str], None]) -> bool:
    """Whether the heads answer in the shapes they had before, at a size of the image."""
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        before, after = decoder(old(x)), decoder(net(x))
    same = all(before[name].shape == after[name].shape for name in before)
    say(f" {size} pixels: heads {list(after['hm'].shape)} {'as before' if same else 'NOT AS BEFORE'}")
    return same
