"""How often `rank(halving=True)` misses the best of 60 networks in the place of one that reads digits; what it saves.

Run as `OMP_NUM_THREADS=1 python -m benchmarks.rank_halving`. The networks differ in width, depth, kernel and in how
long they were trained on real digits (1,797 of scikit-learn); a fifth has random weights. The old one and its head are
trained on the same ones. Each repetition draws other images: all 60 are tried on 128 of them, then by halving. Rows of
the last step come from the full run's journal, since they are the same, so the seconds of both are added up from their
rows.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from autoadapt.ranking import Ranked, rank

WIDTHS = (4, 8, 12, 16, 24, 32)
CANDIDATES = [*product(WIDTHS, (1, 2), (3, 5), (1, 4)), *product(WIDTHS, (1, 2), (3,), (0,))]
"""Width, convolutions a stage, kernel, epochs."""


def backbone(width: int, depth: int, kernel: int) -> nn.Sequential:
    """Two stages of stride 2."""
    layers: list[nn.Module] = []
    for source, target in ((1, width), (width, 2 * width)):
        for number in range(depth):
            stride = 2 if number == 0 else 1
            conv = nn.Conv2d(source if number == 0 else target, target, kernel, stride, kernel // 2)
            layers += [conv, nn.BatchNorm2d(target), nn.ReLU()]
    return nn.Sequential(*layers)


def trained(width: int, depth: int, kernel: int, epochs: int, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A backbone and its head."""
    torch.manual_seed(width + 100 * depth + 1000 * kernel + epochs)
    net = nn.Sequential(backbone(width, depth, kernel), nn.Sequential(nn.Flatten(), nn.Linear(2 * width * 16, 10)))
    steps = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(64):
            steps.zero_grad()
            F.cross_entropy(net(images[part]), labels[part]).backward()
            steps.step()
    net.eval()
    return net


def main() -> None:
    """Print a line for each repetition."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=60)
    arguments = parser.parse_args()
    data = load_digits()
    images = F.interpolate(torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, size=16, mode="bilinear")
    labels = torch.tensor(data.target)
    old = trained(16, 2, 3, 8, images, labels)
    nets = {str(c): trained(*c, images, labels)[0] for c in CANDIDATES[: arguments.candidates]}
    print(f"{len(nets)} candidates", flush=True)
    for repetition in range(arguments.repetitions):
        torch.manual_seed(repetition)
        drawn = images[torch.randperm(len(images))[:384]]
        fitted, held = drawn[:128].split(32), drawn[128:].split(64)
        taken = list[Ranked]()
        with tempfile.TemporaryDirectory() as folder:
            options = {"inputs": drawn[:1], "data": fitted, "held_out": held, "head": old[1], "images": 256}
            options |= {
                "state": Path(folder, "rank.jsonl"),
                "report": lambda row, _done, _of, taken=taken: taken.append(row),
            }
            full = rank(nets, old[0], **options)
            seconds, _ = sum(row.took for row in taken), taken.clear()
            halved = rank(nets, old[0], halving=True, **options)
        order = [row.source for row in full.best_first]
        best, found = full.best_first[0], halved.best_first[0]
        front, kept = set(full.front("multiply_adds")), {row.source for row in halved.rows if row.images == 128}
        print(
            f"best {best.source} agrees {best.agreement:.3f}; by halving {found.source} {found.agreement:.3f}, place "
            f"{order.index(found.source) + 1}; {len(kept)} came to all images, {len(front & kept)} of {len(front)} of "
            f"the front; {sum(row.took for row in taken):.0f} s in place of {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
