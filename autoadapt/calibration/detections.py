"""Detections: how far two answers of a detector are apart, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

AGREES = 0.5
"""Intersection over union from which two boxes of one label count as the same."""

# Dimension letters: N boxes found, M boxes expected.


def is_detection(value: object) -> bool:
    """Whether a value is what torchvision's detectors return for one image: a dict with boxes and scores."""
    return isinstance(value, Mapping) and {"boxes", "scores"} <= set(value)


def are_detections(value: object) -> bool:
    """Whether a value has one detection for each image."""
    return isinstance(value, (list, tuple)) and bool(value) and all(map(is_detection, value))


def found_nothing(answer: Any) -> bool:
    """Whether a detector answered without a single box."""
    return are_detections(answer) and not any(len(one["scores"]) for one in answer)


def compared(found: Any, expected: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of two sets of boxes that does not overlap, and share that agrees, for each image; both by score.

    Each box counts with its score, as far as the best box of its label in the other set overlaps it and is as sure:
    one minus a Dice coefficient. It has a gradient wherever boxes overlap.

    Example:
        >>> one = {"boxes": torch.tensor([[0.0, 0, 2, 2]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.8])}
        >>> half = {**one, "boxes": torch.tensor([[0.0, 0, 1, 2]])}
        >>> loss, agreement = compared([one, half], [one, one])
        >>> loss.tolist(), agreement.tolist()
        ([0.0, 0.5], [1.0, 1.0])
    """
    pairs = [_compared(left, right) for left, right in zip(found, expected, strict=True)]
    losses, agreements = zip(*pairs, strict=True)
    return torch.stack(losses), torch.stack(agreements)


def _compared(found: Mapping[str, Any], expected: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    scores_N, scores_M = found["scores"].double(), expected["scores"].double()
    total = scores_N.sum() + scores_M.sum()
    if not len(scores_N) or not len(scores_M) or not total > 0:
        empty = torch.tensor(float(bool(len(scores_N)) != bool(len(scores_M))), dtype=torch.float64)
        return empty, 1 - empty
    overlap_NM = _overlap(found["boxes"].double(), expected["boxes"].double())
    if "labels" in found and "labels" in expected:
        overlap_NM = overlap_NM * (found["labels"][:, None] == expected["labels"])
    shared_NM = overlap_NM * torch.minimum(scores_N[:, None], scores_M)
    matched = shared_NM.amax(1).sum() + shared_NM.amax(0).sum()
    agree_N, agree_M = (overlap_NM.amax(axis) >= AGREES for axis in (1, 0))
    agreed = (agree_N * scores_N).sum() + (agree_M * scores_M).sum()
    return 1 - matched / total, (agreed / total).detach()


def _overlap(found_N4: torch.Tensor, expected_M4: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes given by two corners.

    Shape:
        `[N, 4], [M, 4] -> [N, M]`
    """
    low_NM2 = torch.maximum(found_N4[:, None, :2], expected_M4[None, :, :2])
    high_NM2 = torch.minimum(found_N4[:, None, 2:], expected_M4[None, :, 2:])
    both_NM = (high_NM2 - low_NM2).clamp(min=0).prod(-1)
    area_N, area_M = ((boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1) for boxes in (found_N4, expected_M4))
    return both_NM / (area_N[:, None] + area_M - both_NM).clamp(min=torch.finfo(torch.float64).tiny)
