"""Calibration inside a detector: lists of images go in, boxes come out."""

import copy

import pytest
import torch
from calibration_models import same, weights

from autoadapt.calibration import calibrate
from autoadapt.calibration.detections import compared
from autoadapt.errors import CalibrationError
from autoadapt.swapping import swap

detection = pytest.importorskip("torchvision.models.detection", reason="torchvision is not installed; zoo extra")
AT = "backbone.body"


def detector(**options):
    torch.manual_seed(0)
    few = {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5, "min_size": 96, "max_size": 160}
    made = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, **(few | options)
    )
    return made.eval()


def images(count, sizes=((96, 128),)):
    generator = torch.Generator().manual_seed(1)
    made = []
    for number in range(count):
        coarse = torch.rand(1, 3, 6, 8, generator=generator)
        size = sizes[number % len(sizes)]
        made.append(torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[0].clamp(0, 1))
    return made


def batches(pictures, size):
    return [pictures[i : i + size] for i in range(0, len(pictures), size)]


@pytest.fixture(scope="module")
def pair():
    """A detector that always finds boxes, and the same with its own backbone behind fresh adapters."""
    old = detector(box_score_thresh=0.0)
    model = copy.deepcopy(old)
    swap(model, AT, copy.deepcopy(old.get_submodule(AT)), inputs=(images(2),), project="always")
    return old, model


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        batches(images(8), 4),
        batches(images(8), 1),
        [(tuple(batch),) for batch in batches(images(8), 4)],
        batches(images(8, sizes=((96, 128), (128, 96), (64, 128))), 4),
    ],
    ids=["lists", "lists of one", "tuples of a loader", "images of different sizes"],
)
def test_the_same_backbone_finds_the_same_boxes(pair, data):
    old, model = pair[0], copy.deepcopy(pair[1])
    found = calibrate(model, at=AT, like=old, data=data)
    assert (found.images, found.head_images) == (8, 2)  # with many channels a quarter is held out
    assert found.loss_name == "boxes lost"
    assert found.head.loss < 0.75 * min(found.random.loss, found.mean_only.loss)  # on two images
    assert found.head.agreement > max(found.random.agreement, found.mean_only.agreement)
    assert "boxes lost" in str(found)
    with torch.no_grad():
        lost = [float(compared(one(images(4)), old(images(4)))[0].mean()) for one in (model, pair[1])]
    assert lost[0] < 0.6 * lost[1]


@pytest.mark.slow
def test_where_the_old_model_finds_nothing_the_features_decide(pair):
    old, model = detector(box_score_thresh=0.99), copy.deepcopy(pair[1])
    model.roi_heads.score_thresh = 0.99
    found = calibrate(model, at=AT, like=old, data=batches(images(8), 4), refine=2)
    assert found.written
    assert found.head is None
    assert "cosine" in found.chosen_by
    assert "the old model finds no boxes on these images, so the features decided alone" in found.remarks


@pytest.mark.slow
def test_a_loss_on_boxes_can_be_given(pair):
    old, model = pair[0], copy.deepcopy(pair[1])

    def loss(found, expected):
        gaps = [one["boxes"].mean(0) - other["boxes"].mean(0) for one, other in zip(found, expected, strict=True)]
        return torch.stack(gaps).abs().mean()

    found = calibrate(model, at=AT, like=old, data=batches(images(8), 4), loss=loss, solver="ridge")
    assert (found.loss_name, found.head.agreement) == ("loss", None)
    assert found.head.loss < found.random.loss


def test_targets_without_boxes_are_named(pair):
    old, model = pair[0], copy.deepcopy(pair[1])
    before = weights(model)
    with pytest.raises(CalibrationError, match="batch 0, old model failed"):
        calibrate(model, at=AT, like=old, data=[(images(2), [{}, {}])])
    assert same(before, weights(model))


def test_boxes_are_compared_by_overlap_label_and_score():
    box = {"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.5])}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    cases = [
        (box, box, 0.0, 1.0),
        (nothing, nothing, 0.0, 1.0),
        (box, nothing, 1.0, 0.0),
        (nothing, box, 1.0, 0.0),
        ({**box, "labels": torch.tensor([2])}, box, 1.0, 0.0),
        ({**box, "boxes": torch.tensor([[4.0, 0, 8, 4]])}, box, 1.0, 0.0),
        ({**box, "boxes": torch.tensor([[2.0, 0, 6, 4]])}, box, 1 - 8 / 24, 0.0),
        ({**box, "scores": torch.tensor([0.25])}, box, 1 - 0.5 / 0.75, 1.0),
    ]
    found, expected, losses, agreements = zip(*cases, strict=True)
    loss, agreement = compared(found, expected)
    assert loss.tolist() == pytest.approx(losses)
    assert agreement.tolist() == pytest.approx(agreements)
