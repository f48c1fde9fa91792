"""Losses of maps as mmseg's decode heads take them: scores are enlarged to the targets before they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.assembly.losses import CrossEntropyLoss, DiceLoss, FocalLoss
from autoadapt.assembly.registry import register

# Dimension letters: B batch, K classes, H W cells of the scores, Y X pixels of the targets.

DECODED = {"CrossEntropyLoss": CrossEntropyLoss, "DiceLoss": DiceLoss, "FocalLoss": FocalLoss}
"""Losses that compare the classes of pixels."""


@register("loss")
class DecodeLoss(nn.Module):
    """One loss of every pixel, or the sum of several; mmseg's `BaseDecodeHead.loss_by_feat`.

    Args:
        losses: Their configs: `CrossEntropyLoss` (softmax, or with `use_sigmoid` each class by itself; its mean is over
            all pixels, or with `avg_non_ignore` over those that count), `FocalLoss` (each class by itself, `alpha` one
            half) and `DiceLoss` (of each class, the classes being the axis of a mask).
        ignore_index: The class of pixels that do not count.
        align_corners: How scores are enlarged, bilinearly.

    Shape:
        prediction `[B, K, H, W]`, target `[B, Y, X]` or `[B, 1, Y, X]` of class indices -> a number
    """

    def __init__(self, losses: Sequence[dict[str, Any]], ignore_index: int = 255, align_corners: bool = False) -> None:
        super().__init__()
        self.ignore_index, self.align_corners = ignore_index, align_corners
        self.over_all: list[bool] = []
        self.losses = nn.ModuleList(self._made(dict(each)) for each in losses)

    def _made(self, given: dict[str, Any]) -> nn.Module:
        kind = str(given.pop("type", ""))
        given.pop("loss_name", None)  # under which mmseg logs it
        if kind not in DECODED:
            raise ValueError(f"a loss of pixels is of type {' or '.join(DECODED)}, got {kind!r}")
        if given.get("reduction", "mean") != "mean":
            raise ValueError("losses of pixels are means here")
        if given.get("use_sigmoid") and given.get("class_weight") is not None:
            raise ValueError("class_weight of pixels goes with a softmax")
        over_all = True
        match kind:
            case "CrossEntropyLoss":
                given["ignore_index"] = self.ignore_index
                over_all = not given.pop("avg_non_ignore", False)
            case "FocalLoss":
                given.setdefault("alpha", 0.5)
        self.over_all.append(over_all)
        made: nn.Module = DECODED[kind](**given)
        return made

    def forward(self, prediction_BKHW: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare the scores with the class of each pixel."""
        target_BYX = target[:, 0] if target.dim() == 4 else target
        scores_BKYX = F.interpolate(
            prediction_BKHW, target_BYX.shape[1:], mode="bilinear", align_corners=self.align_corners
        )
        total = scores_BKYX.new_zeros(())
        for loss, over_all in zip(self.losses, self.over_all, strict=True):
            if isinstance(loss, DiceLoss):
                total = total + loss(scores_BKYX, self._masks(target_BYX, scores_BKYX.shape[1]))
            elif isinstance(loss, CrossEntropyLoss) and not loss.use_sigmoid:
                total = total + loss(scores_BKYX, target_BYX, avg_factor=self._factor(loss, target_BYX, over_all))
            else:
                total = total + self._each_class(loss, scores_BKYX, target_BYX, over_all)
        return total

    def _each_class(
        self, loss: nn.Module, scores_BKYX: torch.Tensor, target_BYX: torch.Tensor, over_all: bool
    ) -> torch.Tensor:
        """Each class against the rest; a single one is of the pixels of class 1, as in mmseg."""
        single = scores_BKYX.shape[1] == 1
        masks_BKYX = (target_BYX == 1)[:, None] if single else self._masks(target_BYX, scores_BKYX.shape[1])
        counted_BKYX = (target_BYX != self.ignore_index)[:, None].expand_as(scores_BKYX)
        factor = counted_BKYX.numel() if over_all else counted_BKYX.sum()
        dtype = scores_BKYX.dtype
        found: torch.Tensor = loss(scores_BKYX, masks_BKYX.to(dtype), counted_BKYX.to(dtype), avg_factor=factor)
        return found

    def _factor(self, loss: CrossEntropyLoss, target_BYX: torch.Tensor, over_all: bool) -> torch.Tensor:
        """What the sum over the pixels is divided by: their number, or what their classes weigh."""
        counted = target_BYX != self.ignore_index
        if loss.class_weight is None:
            return torch.ones_like(counted).sum() if over_all else counted.sum()
        if over_all and not counted.all():
            raise ValueError("with class_weight, pixels that do not count go with avg_non_ignore=True")
        return loss.class_weight[target_BYX[counted]].sum()

    def _masks(self, target_BYX: torch.Tensor, classes: int) -> torch.Tensor:
        """One mask for each class; a pixel that does not count is in none."""
        known_BYX = torch.where(target_BYX == self.ignore_index, classes, target_BYX)
        return F.one_hot(known_BYX, classes + 1)[..., :classes].movedim(-1, 1)
