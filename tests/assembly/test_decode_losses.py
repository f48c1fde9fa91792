"""Losses of pixels as mmseg's heads take them, against the formulas written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from autoadapt.assembly import LabelSmoothLoss, assemble
from autoadapt.assembly.decode_losses import DecodeLoss
from autoadapt.assembly.layer_configs import activation
from autoadapt.errors import AssemblyError

torch.manual_seed(0)
SCORES = torch.randn(2, 3, 4, 5)
TARGET = torch.randint(0, 3, (2, 9, 11))
TARGET[0, :4] = 255


def each_pixel(corners: bool = False, weight: torch.Tensor | None = None) -> torch.Tensor:
    scores = F.interpolate(SCORES, (9, 11), mode="bilinear", align_corners=corners)
    return F.cross_entropy(scores, TARGET, weight, reduction="none", ignore_index=255)


@pytest.mark.parametrize("corners", [False, True])
def test_scores_are_enlarged_to_the_targets_and_pixels_of_255_do_not_count(corners: bool) -> None:
    loss = DecodeLoss([{"type": "CrossEntropyLoss", "loss_weight": 0.4}], align_corners=corners)
    torch.testing.assert_close(loss(SCORES, TARGET), 0.4 * each_pixel(corners).sum() / TARGET.numel())
    torch.testing.assert_close(loss(SCORES, TARGET[:, None]), loss(SCORES, TARGET))


def test_the_mean_is_over_the_pixels_that_count_where_that_is_said() -> None:
    loss = DecodeLoss([{"type": "CrossEntropyLoss", "avg_non_ignore": True, "loss_name": "loss_ce"}])
    torch.testing.assert_close(loss(SCORES, TARGET), each_pixel().sum() / (TARGET != 255).sum())


def test_weights_of_classes_are_part_of_the_mean() -> None:
    weight = torch.tensor([1.0, 2.0, 4.0])
    entry: dict[str, Any] = {"type": "CrossEntropyLoss", "class_weight": [1, 2, 4]}
    loss = DecodeLoss([{**entry, "avg_non_ignore": True}])
    whole = weight[TARGET[TARGET != 255]].sum()
    torch.testing.assert_close(loss(SCORES, TARGET), each_pixel(weight=weight).sum() / whole)
    with pytest.raises(ValueError, match="avg_non_ignore=True"):
        DecodeLoss([entry])(SCORES, TARGET)


def test_a_dice_loss_compares_the_mask_of_each_class() -> None:
    scores = F.interpolate(SCORES, (9, 11), mode="bilinear").sigmoid()
    masks = torch.stack([(k == TARGET).float() for k in range(3)], 1)
    both, found, wanted = ((a * b).flatten(1).sum(1) for a, b in ((scores, masks), (scores, scores), (masks, masks)))
    expected = (1 - 2 * both / (found + 1e-3 + wanted + 1e-3)).mean()
    loss = DecodeLoss([{"type": "DiceLoss", "loss_weight": 2.0}])
    torch.testing.assert_close(loss(SCORES, TARGET), 2 * expected)
    both_losses = DecodeLoss([{"type": "DiceLoss", "loss_weight": 2.0}, {"type": "CrossEntropyLoss"}])
    torch.testing.assert_close(both_losses(SCORES, TARGET), 2 * expected + each_pixel().mean())


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "LovaszLoss"},
        {"type": "CrossEntropyLoss", "use_sigmoid": True, "class_weight": [1.0, 2.0, 1.0]},
        {"type": "DiceLoss", "reduction": "sum"},
    ],
)
def test_a_loss_of_pixels_that_is_not_known_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pixels"):
        DecodeLoss([entry])


@pytest.mark.parametrize("classes", [3, 1])
def test_each_class_of_a_pixel_is_compared_by_itself(classes: int) -> None:
    target = torch.where(TARGET == 2, 1, TARGET) if classes == 1 else TARGET
    scores, counted = SCORES[:, :classes], (target != 255)[:, None]
    enlarged = F.interpolate(scores, (9, 11), mode="bilinear")
    masks = torch.stack([(k == target).float() for k in ([1] if classes == 1 else range(3))], 1)
    single = F.binary_cross_entropy_with_logits(enlarged, masks, reduction="none") * counted
    entry = {"type": "CrossEntropyLoss", "use_sigmoid": True}
    torch.testing.assert_close(DecodeLoss([entry])(scores, target), single.mean())
    found = DecodeLoss([{**entry, "avg_non_ignore": True}])(scores, target)
    torch.testing.assert_close(found, single.sum() / (classes * counted.sum()))
    wrong = torch.where(masks > 0, 1 - enlarged.sigmoid(), enlarged.sigmoid())
    focal = DecodeLoss([{"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0}])(scores, target)
    torch.testing.assert_close(focal, (single * wrong**2 / 2).mean())


@pytest.mark.sampled(1)
@pytest.mark.parametrize("several", [True, False])
def test_a_published_decode_head_trains_on_targets_of_the_size_of_the_image(several: bool) -> None:
    entry = {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0}
    head = {
        "type": "FCNHead",
        "channels": 8,
        "num_convs": 1,
        "num_classes": 3,
        "align_corners": False,
        "loss_decode": [entry, {"type": "DiceLoss", "use_sigmoid": False}, {"type": "FocalLoss"}] if several else entry,
    }
    model = assemble({"input": "f32[B, 3, 32, 32]", "backbone": {"type": "ResNetV1c", "depth": 18}, "head": head})
    target = torch.randint(0, 3, (2, 32, 32))
    target[:, :5] = 255
    model(torch.rand(2, 3, 32, 32), target)["loss"].backward()
    assert model.head.conv_seg.weight.grad.abs().sum() > 0
    head["loss_decode"] = {**entry, "avg_nonignore": True}
    with pytest.raises(AssemblyError, match="avg_nonignore"):
        assemble({"input": "f32[B, 3, 32, 32]", "backbone": {"type": "ResNetV1c", "depth": 18}, "head": head})


def test_labels_of_several_classes_are_smoothed_one_by_one() -> None:
    scores, target = torch.randn(4, 3), torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    smooth = torch.where(target > 0, 0.9, 0.1)
    expected = F.binary_cross_entropy_with_logits(scores, smooth)
    torch.testing.assert_close(LabelSmoothLoss(0.1, mode="multi_label")(scores, target), expected)
    classes = torch.tensor([0, 2, 1, 1])
    spread = F.one_hot(classes, 3) * 0.9 + 0.1 / 3
    expected = F.binary_cross_entropy_with_logits(scores, spread)
    torch.testing.assert_close(LabelSmoothLoss(0.1, use_sigmoid=True)(scores, classes), expected)


def test_activations_of_mmcv_are_known_by_their_names() -> None:
    x = torch.linspace(-4, 4, 9)
    assert torch.equal(activation({"type": "HSwish"})[0](x), x * (x + 3).clamp(0, 6) / 6)
    torch.testing.assert_close(activation({"type": "Swish"})[0](x), x * x.sigmoid())
