"""What folding saves: time, peak memory, parameters and multiply-adds of whole models, adapted, folded, edited by hand.

python -m benchmarks.folding            # three consumers, 256 x 256, one thread; a table
python -m benchmarks.folding --counted  # what the dry run of the swap says of each, without running them for time

By hand means: the same consumer built for the widths of the new backbone, its own layers as wide as before where its
class has numbers for them (smp), narrowed with the levels where those are its only numbers (the oriented detector).
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.costs import cost_of
from autoadapt.swapping.cost_lines import cost_text

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from folded_models import Oriented, WithImage, swapped

IMAGE = (1, 3, 256, 256)


def smp_by_hand(name: str) -> nn.Module:
    """The same decoder over smp's own ResNet-18, whose widths it is built for."""
    import segmentation_models_pytorch as smp

    made: nn.Module = getattr(smp, name)("resnet18", encoder_weights=None, classes=3)
    return made


def smp_wide(name: str) -> tuple[nn.Module, str]:
    """The old model: over a ResNet-101."""
    import segmentation_models_pytorch as smp

    return getattr(smp, name)("resnet101", encoder_weights=None, classes=3), "encoder"


CONSUMERS = {
    "smp Unet": (lambda: smp_wide("Unet"), lambda: smp_by_hand("Unet")),
    "smp FPN": (lambda: smp_wide("FPN"), lambda: smp_by_hand("FPN")),
    "oriented detector": (
        lambda: (Oriented(WithImage("resnet101")), "base_network"),
        lambda: Oriented(WithImage("resnet18"), (64, 128, 256, 512)),
    ),
}


def row(name: str, kind: str, model: nn.Module, x: torch.Tensor) -> str:
    """A row of the table."""
    cost = cost_of(model, x)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    numbers = f"{millions:.2f} | {cost.multiply_adds / 1e9:.3f} | {cost.peak_bytes / 2**20:.1f}"
    return f"| {name} | {kind} | {numbers} | {cost.seconds * 1000:.0f} |"


def counted() -> None:
    """Print the costs that dry runs tell."""
    for name, (wide, _) in CONSUMERS.items():
        old, at = wide()
        new = timm.create_model("resnet18", features_only=True)
        old.eval()
        found = aa.swap(old, at, new, inputs=torch.randn(*IMAGE), dry_run=True)
        print(f"{name}\n" + "\n".join(cost_text(found.costs)), flush=True)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    if "--counted" in sys.argv:
        counted()
        return
    x = torch.randn(*IMAGE)
    print("| consumer | kind | M parameters | G multiply-adds | peak MiB | ms |\n|---|---|---|---|---|---|")
    for name, (wide, by_hand) in CONSUMERS.items():
        old, at = wide()
        print(row(name, "old", old, x))
        model = swapped(old, at, timm.create_model("resnet18", features_only=True), x)
        print(row(name, "adapted", model, x))
        print(row(name, "folded", aa.fold(model, at=at, inputs=x), x))
        print(row(name, "by hand", by_hand(), x), flush=True)


if __name__ == "__main__":
    main()
