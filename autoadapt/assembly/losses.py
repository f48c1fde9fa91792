"""Losses, with a weight, a reduction and an averaging factor."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.assembly.registry import register

__all__ = ["CrossEntropyLoss", "L1Loss", "SmoothL1Loss"]

# Dimension letters: B batch, K classes, * any further axes.

Reduction: TypeAlias = Literal["mean", "sum", "none"]


@register("loss")
class CrossEntropyLoss(nn.Module):
    """Softmax cross-entropy with class indices or probabilities.

    Shape:
        prediction `[B, K, *]`, target `[B, *]` or `[B, K, *]`, weight `[B, *]` -> a number, or `[B, *]` unreduced
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction: Reduction = reduction
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def forward(
        self,
        prediction: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | None = None,
    ) -> torch.Tensor:
        """Compare predictions with targets."""
        loss = F.cross_entropy(
            prediction,
            target,
            reduction="none",
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )
        if avg_factor is not None or self.reduction != "mean" or target.is_floating_point():
            return self.loss_weight * reduced(loss, self.reduction, weight, avg_factor)
        counted = (target != self.ignore_index).sum().clamp(min=1)  # ignored cells do not count
        return self.loss_weight * reduced(loss, "mean", weight, counted)


@register("loss")
class L1Loss(nn.Module):
    """Absolute difference.

    Shape:
        prediction, target and weight `[*]` -> a number, or `[*]` unreduced
    """

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction: Reduction = reduction

    def forward(
        self,
        prediction: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | None = None,
    ) -> torch.Tensor:
        """Compare predictions with targets."""
        _refuse_broadcast(prediction, target)
        loss = F.l1_loss(prediction, target, reduction="none")
        return self.loss_weight * reduced(loss, self.reduction, weight, avg_factor)


@register("loss")
class SmoothL1Loss(nn.Module):
    """Absolute difference, squared below `beta`; Girshick, Fast R-CNN (2015), equation 3.

    Shape:
        prediction, target and weight `[*]` -> a number, or `[*]` unreduced
    """

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = "mean", beta: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction: Reduction = reduction
        self.beta = beta

    def forward(
        self,
        prediction: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | None = None,
    ) -> torch.Tensor:
        """Compare predictions with targets."""
        _refuse_broadcast(prediction, target)
        loss = F.smooth_l1_loss(prediction, target, reduction="none", beta=self.beta)
        return self.loss_weight * reduced(loss, self.reduction, weight, avg_factor)


def reduced(
    loss: torch.Tensor,
    reduction: Reduction,
    weight: torch.Tensor | None = None,
    avg_factor: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Weigh and reduce a loss of single values.

    Args:
        loss: One value for each prediction.
        reduction: What becomes of them.
        weight: A factor for each.
        avg_factor: What to divide the sum by, in place of the number of values.

    Example:
        >>> reduced(torch.tensor([1.0, 3.0]), "mean", avg_factor=4)
        tensor(1.)
    """
    weighted = loss if weight is None else loss * weight
    match reduction:
        case "none":
            return weighted
        case "sum":
            if avg_factor is not None:
                raise ValueError('avg_factor goes with reduction="mean", not with "sum"')
            return weighted.sum()
        case "mean":
            return weighted.mean() if avg_factor is None else weighted.sum() / avg_factor


def _refuse_broadcast(prediction: torch.Tensor, target: torch.Tensor) -> None:
    """`[B, 1]` against `[B]` would be compared all with all, without a word."""
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {list(prediction.shape)} and target {list(target.shape)} differ in shape")
