"""Losses, with a weight, a reduction and an averaging factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.assembly.registry import register

# Dimension letters: B batch, K classes, * any further axes.

Reduction: TypeAlias = Literal["mean", "sum", "none"]


class WeighedLoss(nn.Module):
    """A loss that is compared value by value, weighed and reduced.

    Args:
        loss_weight: A factor.
        reduction: What becomes of the single losses.
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
        avg_factor: float | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compare predictions with targets; a weight `[B]` is one for each sample."""
        loss = self.compared(prediction, target)
        if weight is not None and weight.dim() == 1:
            weight = weight.reshape([-1, *[1] * (loss.dim() - 1)])
        if avg_factor is None and self.reduction == "mean":
            avg_factor = self.averaged_over(target)
        return self.loss_weight * reduced(loss, self.reduction, weight, avg_factor)

    def compared(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The single losses."""
        raise NotImplementedError

    def averaged_over(self, _target: torch.Tensor) -> torch.Tensor | None:
        """How many of them a mean is over; None for all."""
        return None


@register("loss")
class CrossEntropyLoss(WeighedLoss):
    """Softmax cross-entropy with class indices or probabilities.

    Args:
        loss_weight: A factor.
        reduction: What becomes of the single losses; the mean is over all that are not ignored, whatever they weigh.
        label_smoothing: The share that is spread over all classes.
        ignore_index: The class that does not count.
        class_weight: A factor for each class.
        use_sigmoid: Every class by itself against the rest; the target then has the shape of the prediction.
        use_soft: Said by configs whose targets are probabilities; these are seen by themselves.

    Shape:
        prediction `[B, K, *]`, target `[B, *]` or `[B, K, *]`, weight `[B, *]` -> a number, or `[B, *]` unreduced
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        class_weight: Sequence[float] | None = None,
        use_sigmoid: bool = False,
        use_soft: bool = False,
    ) -> None:
        super().__init__(loss_weight, reduction)
        self.class_weight: torch.Tensor | None
        self.use_sigmoid = use_sigmoid
        weights_K = None if class_weight is None else torch.tensor([float(weight) for weight in class_weight])
        self.register_buffer("class_weight", weights_K, persistent=False)
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def averaged_over(self, target: torch.Tensor) -> torch.Tensor | None:
        """Targets that are not ignored."""
        by_index = not self.use_sigmoid and not target.is_floating_point()
        return (target != self.ignore_index).sum().clamp(min=1) if by_index else None

    def compared(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """One loss for each target; what torch says of targets that do not fit is of its own numbers."""
        if self.use_sigmoid:
            return self._each_class(prediction, target)
        by_index = not target.is_floating_point()
        expected = [*prediction.shape[:1], *prediction.shape[1 + by_index :]]
        if prediction.dim() > 1 and list(target.shape) != expected:
            enlarged = "; DecodeLoss enlarges scores to targets" if by_index and target.dim() > 1 else ""
            shapes = f"prediction {list(prediction.shape)} takes a target {expected}, got {list(target.shape)}"
            raise ValueError(f"{shapes}{enlarged}")
        try:
            return F.cross_entropy(
                prediction,
                target,
                self.class_weight,
                reduction="none",
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
            )
        except IndexError as error:
            known = f"0 to {prediction.shape[1] - 1}, or ignore_index={self.ignore_index}"
            wrong = target[(target < 0) | (target >= prediction.shape[1])]
            found = sorted({*wrong.tolist()} - {self.ignore_index})
            raise ValueError(f"a class is {known}, got {found}; ignore_index={found[0]} leaves it out") from error

    def _each_class(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Every class against the rest."""
        if target.is_floating_point():
            _refuse_broadcast(prediction, target)
            return F.binary_cross_entropy_with_logits(prediction, target, self.class_weight, reduction="none")
        raise ValueError("use_sigmoid takes one target for each class, as floats in the shape of the prediction")


@register("loss")
class L1Loss(WeighedLoss):
    """Absolute difference.

    Shape:
        prediction, target and weight `[*]` -> a number, or `[*]` unreduced
    """

    def compared(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The differences."""
        _refuse_broadcast(prediction, target)
        return F.l1_loss(prediction, target, reduction="none")


@register("loss")
class SmoothL1Loss(WeighedLoss):
    """Absolute difference, squared below `beta`; Girshick, Fast R-CNN (2015), equation 3.

    Shape:
        prediction, target and weight `[*]` -> a number, or `[*]` unreduced
    """

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = "mean", beta: float = 1.0) -> None:
        super().__init__(loss_weight, reduction)
        self.beta = beta

    def compared(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The differences, squared where they are small."""
        _refuse_broadcast(prediction, target)
        return F.smooth_l1_loss(prediction, target, reduction="none", beta=self.beta)


@register("loss")
class LabelSmoothLoss(CrossEntropyLoss):
    """Cross-entropy against smoothed classes; Szegedy et al. (2016), section 7.

    Args:
        label_smooth_val: The share that is spread over all classes.
        num_classes: Not needed; mmpretrain's configs may give it.
        mode: `original` spreads the share as it is, `classy_vision` `value / (1 + value)`, as mmpretrain does;
            `multi_label` takes each class by itself, as true to `1 - value` or to `value`.
        use_sigmoid: Every class by itself against the rest; left out, with `multi_label` alone.
        reduction: What becomes of the samples' losses.
        loss_weight: A factor.

    Shape:
        prediction `[B, K]`, target `[B]` or `[B, K]`, weight `[B]` -> a number, or `[B]` unreduced
    """

    def __init__(
        self,
        label_smooth_val: float,
        num_classes: int | None = None,
        mode: Literal["original", "classy_vision", "multi_label"] = "original",
        reduction: Reduction = "mean",
        loss_weight: float = 1.0,
        use_sigmoid: bool | None = None,
    ) -> None:
        share = label_smooth_val / (1 + label_smooth_val) if mode == "classy_vision" else label_smooth_val
        each = mode == "multi_label" if use_sigmoid is None else use_sigmoid
        plain = not each and mode != "multi_label"
        super().__init__(loss_weight, reduction, label_smoothing=share if plain else 0.0, use_sigmoid=each)
        self.share, self.mode, self.plain = share, mode, plain

    def compared(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The losses against smoothed classes."""
        return super().compared(prediction, target if self.plain else self._smoothed(target, prediction))

    def _smoothed(self, target: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """What each class by itself is compared with."""
        classes = prediction.shape[1]
        true_BK = (F.one_hot(target.flatten(), classes) if target.dim() == 1 else target).to(prediction.dtype)
        if self.mode == "multi_label":
            return torch.where(true_BK > 0, 1 - self.share, self.share).to(prediction.dtype)
        return true_BK * (1 - self.share) + self.share / classes


@register("loss")
class FocalLoss(WeighedLoss):
    """Sigmoid focal loss; Lin et al. (2017), equation 5, for each class by itself.

    Args:
        gamma: How much less what is right already counts.
        alpha: The share of positives; negative for none.
        reduction: What becomes of the single losses; the mean is over samples and classes.
        loss_weight: A factor.
        use_sigmoid: The only kind there is; detectors' configs say it.

    Raises:
        ValueError: Without `use_sigmoid`.

    Shape:
        prediction `[B, K]`, target `[B]` (class `K` is background) or `[B, K]`, weight `[B]` or `[B, K]` -> a number,
        or `[B, K]` unreduced
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float = 0.25,
        reduction: Reduction = "mean",
        loss_weight: float = 1.0,
        use_sigmoid: Literal[True] = True,
    ) -> None:
        super().__init__(loss_weight, reduction)
        if not use_sigmoid:
            raise ValueError("the focal loss takes each class by itself: use_sigmoid=True")
        self.gamma, self.alpha = gamma, alpha

    def compared(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The losses of single classes."""
        if not target.is_floating_point() and target.dim() == 1:
            target = F.one_hot(target, prediction.shape[1] + 1)[:, :-1]
        target = target.to(prediction.dtype)
        _refuse_broadcast(prediction, target)
        wrong = prediction.sigmoid() * (1 - target) + (1 - prediction.sigmoid()) * target
        loss = F.binary_cross_entropy_with_logits(prediction, target, reduction="none") * wrong**self.gamma
        if self.alpha >= 0:
            loss = loss * (self.alpha * target + (1 - self.alpha) * (1 - target))
        return loss


@register("loss")
class DiceLoss(WeighedLoss):
    """One less the overlap of masks; Milletari et al. (2016), equation 3; with `naive_dice`, without the squares.

    Args:
        use_sigmoid: Whether each value is a score by itself; else the softmax over axis 1 is taken, as in mmseg, where
            there is more than one class.
        activate: Whether predictions are scores, to which the sigmoid or softmax is applied, rather than probabilities.
        reduction: What becomes of the masks' losses.
        naive_dice: Whether the sums below are of the values, not of their squares.
        loss_weight: A factor.
        eps: Keeps empty masks finite.

    Shape:
        prediction and target `[B, *]`, or `[B, K, *]` for a softmax, weight `[B]` -> a number, or `[B]` unreduced
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        activate: bool = True,
        reduction: Reduction = "mean",
        naive_dice: bool = False,
        loss_weight: float = 1.0,
        eps: float = 1e-3,
    ) -> None:
        super().__init__(loss_weight, reduction)
        self.use_sigmoid, self.activate = use_sigmoid, activate
        self.naive_dice, self.eps = naive_dice, eps

    def compared(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """What each mask lacks."""
        _refuse_broadcast(prediction, target)
        found = (self._activated(prediction) if self.activate else prediction).flatten(1)
        wanted = target.flatten(1).to(found.dtype)
        both = (found * wanted).sum(1)
        if self.naive_dice:
            overlap = (2 * both + self.eps) / (found.sum(1) + wanted.sum(1) + self.eps)
        else:
            overlap = 2 * both / (found.square().sum(1) + wanted.square().sum(1) + 2 * self.eps)
        return 1 - overlap

    def _activated(self, prediction: torch.Tensor) -> torch.Tensor:
        if self.use_sigmoid:
            return prediction.sigmoid()
        if prediction.dim() < 3:
            raise ValueError(f"a softmax is over the classes of [B, K, *], got {list(prediction.shape)}")
        return prediction.softmax(1) if prediction.shape[1] > 1 else prediction


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
