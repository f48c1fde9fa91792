"""Configs with one part left open: the backbone."""

from __future__ import annotations

POOL = """
input: f32[B, 3, 32, 32]
targets: {label: "i64[B]"}
backbone: {type: BACKBONE}
neck: {type: GlobalAveragePooling}
head: {type: LinearClsHead, num_classes: 10}
loss: {type: CrossEntropyLoss, loss_weight: 1.0}
"""


def _config(text: str, backbone: str) -> str:
    return text.replace("BACKBONE", backbone)
