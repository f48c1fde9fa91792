"""Assemble a model from a config and train it for a few steps on the digits of scikit-learn.

Run: python examples/train_from_config.py [config.yaml]
"""

from __future__ import annotations

import sys
from pathlib import Path

import small_parts  # noqa: F401  (registers its parts)
import torch
from sklearn.datasets import load_digits

from autoadapt.assembly import AssembledModel, assemble


def train(model: AssembledModel, *, steps: int = 40, batch: int = 64) -> list[float]:
    """The sum of the losses at every step."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    classes = torch.tensor(digits.target)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    sums = []
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(images), (batch,), generator=generator)
        loss = torch.stack([*model(images[rows], classes[rows]).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sums.append(float(loss.detach()))
    return sums


if __name__ == "__main__":
    torch.manual_seed(0)
    assembled = assemble(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("small_parts.yaml"))
    print(assembled.report)
    losses = train(assembled)
    print(f"\nloss {losses[0]:.3f} -> {losses[-1]:.3f} after {len(losses)} steps")
