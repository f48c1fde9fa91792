"""Losses under the names of the OpenMMLab configs have their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from autoadapt.assembly import CrossEntropyLoss, DiceLoss, FocalLoss, LabelSmoothLoss


def test_smoothed_labels_are_those_of_torch_and_of_classy_vision() -> None:
    scores, classes = torch.randn(4, 5), torch.tensor([0, 1, 2, 4])
    found = LabelSmoothLoss(0.1, num_classes=5, loss_weight=2.0)(scores, classes)
    torch.testing.assert_close(found, 2.0 * F.cross_entropy(scores, classes, label_smoothing=0.1))
    soft = (F.one_hot(classes, 5) + 0.1 / 5) / 1.1
    found = LabelSmoothLoss(0.1, mode="classy_vision")(scores, classes)
    torch.testing.assert_close(found, -(soft * scores.log_softmax(1)).sum(1).mean())


@pytest.mark.parametrize("alpha", [0.25, -1.0])
def test_the_focal_loss_is_torchvision_s(alpha: float) -> None:
    from torchvision.ops import sigmoid_focal_loss

    scores, classes = torch.randn(4, 5), torch.tensor([0, 1, 4, 5])  # the last is background
    target = torch.zeros(4, 5)
    target[[0, 1, 2], [0, 1, 4]] = 1
    expected = sigmoid_focal_loss(scores, target, alpha=alpha, gamma=1.5)
    loss = FocalLoss(gamma=1.5, alpha=alpha, loss_weight=3.0)
    torch.testing.assert_close(loss(scores, classes), 3 * expected.mean())
    torch.testing.assert_close(loss(scores, target), 3 * expected.mean())
    torch.testing.assert_close(loss(scores, classes, avg_factor=2.0), 3 * expected.sum() / 2)
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0])
    torch.testing.assert_close(loss(scores, classes, weight), 3 * (expected * weight[:, None]).mean())


def test_the_dice_loss_is_one_less_the_overlap() -> None:
    found, wanted = (
        torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]]),
        torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]),
    )
    plain: dict[str, Any] = {"activate": False, "reduction": "none", "eps": 1e-6}
    torch.testing.assert_close(DiceLoss(**plain)(found, wanted), torch.tensor([1 - 2 / 3, 1 - 1 / 2.25]))
    torch.testing.assert_close(
        DiceLoss(naive_dice=True, **plain)(found, wanted), torch.tensor([1 - 2 / 3, 1 - 1 / 2.5])
    )
    scores = torch.randn(3, 2, 2)
    both = DiceLoss()(scores, (scores > 0).float()), DiceLoss(activate=False)(scores.sigmoid(), (scores > 0).float())
    torch.testing.assert_close(*both)
    maps = torch.randn(2, 3, 4, 4)
    both = DiceLoss(use_sigmoid=False), DiceLoss(activate=False)
    torch.testing.assert_close(both[0](maps, maps.sigmoid()), both[1](maps.softmax(1), maps.sigmoid()))
    assert DiceLoss()(maps, maps.sigmoid()) != both[0](maps, maps.sigmoid())
    with pytest.raises(ValueError, match=r"the classes of \[B, K, \*\], got \[2, 3\]"):
        both[0](maps[:, :, 0, 0], maps[:, :, 0, 0])
    with pytest.raises(ValueError, match="use_sigmoid=True"):
        FocalLoss(use_sigmoid=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="differ in shape"):
        DiceLoss()(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))


def test_classes_weigh_and_are_compared_each_by_itself() -> None:
    scores, classes = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    single = F.cross_entropy(scores, classes, torch.tensor([1.0, 2.0, 0.5]), reduction="none")
    torch.testing.assert_close(CrossEntropyLoss(class_weight=[1.0, 2.0, 0.5])(scores, classes), single.mean())
    target = F.one_hot(classes, 3).float()
    expected = F.binary_cross_entropy_with_logits(scores, target)
    torch.testing.assert_close(CrossEntropyLoss(use_sigmoid=True)(scores, target), expected)
    with pytest.raises(ValueError, match="one target for each class"):
        CrossEntropyLoss(use_sigmoid=True)(scores, classes)
