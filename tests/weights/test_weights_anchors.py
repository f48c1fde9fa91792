"""Heads that yield the classes of several anchors: rows lie anchor by anchor, and the shape alone does not tell so."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from weights_models import randomised, snapshot

from autoadapt.weights import transfer


def _head(outputs: int) -> nn.Module:
    return nn.ModuleDict({"stem": nn.Conv2d(3, 4, 1), "cls": nn.Conv2d(4, outputs, 1)})


KINDS = [
    ("YOLOv3", 255, 75, 3),
    ("RetinaNet", 720, 180, 9),
    ("SSD", 324, 84, 4),
    ("own", 720, 27, 9),
    ("to", 75, 255, 3),
]


@pytest.mark.parametrize(("old", "new", "anchors"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])
def test_classes_of_several_anchors_are_left_by_slice_and_taken_of_each_by_blocks(old: int, new: int, anchors: int):
    source, model = randomised(_head(old), 1), randomised(_head(new), 2)
    before = snapshot(model)
    report = transfer(source, model, shapes="slice")
    assert torch.equal(model["cls"].weight, before["cls.weight"])
    assert torch.equal(model["cls"].bias, before["cls.bias"])
    how = next(entry.how for entry in report.sources if entry.name == "cls.bias")
    assert f'by blocks of {old // anchors} (shapes "blocks")' in how
    assert f'by {anchors} for each (shapes "groups")' in how
    transfer(source, model, shapes="blocks")
    least = min(old, new) // anchors
    taken = model["cls"].bias.reshape(anchors, -1)[:, :least]
    assert torch.equal(taken, source["cls"].bias.reshape(anchors, -1)[:, :least])


@pytest.mark.parametrize(("old", "new"), [(80, 20), (1000, 100), (1000, 10), (91, 21), (400, 80), (12, 9)])
def test_classes_that_stand_alone_are_the_first_ones(old: int, new: int):
    source, model = randomised(_head(old), 1), randomised(_head(new), 2)
    transfer(source, model, shapes="slice")
    assert torch.equal(model["cls"].weight, source["cls"].weight[:new])


@pytest.mark.parametrize(("old", "new"), [(240, 60), (100, 20)])
def test_a_linear_classifier_has_no_anchors(old: int, new: int):
    source, model = randomised(nn.Sequential(nn.Linear(4, old)), 1), nn.Sequential(nn.Linear(4, new))
    transfer(source, model, shapes="slice")
    assert torch.equal(model[0].weight, source[0].weight[:new])


def test_boxes_of_each_class_beside_the_classes_are_left_with_both_readings():
    def head(classes: int) -> nn.Module:
        return nn.ModuleDict({"cls_score": nn.Linear(4, classes), "bbox_pred": nn.Linear(4, 4 * classes)})

    source, model = randomised(head(13), 1), randomised(head(6), 2)
    report = transfer(source, model, shapes="slice")
    assert torch.equal(model["cls_score"].bias, source["cls_score"].bias[:6])
    how = next(entry.how for entry in report.sources if entry.name == "bbox_pred.bias")
    assert how.endswith(
        'rows 0-5, 13-18, 26-31, 39-44 by blocks of 13 (shapes "blocks"), rows 0-23 by 4 for each (shapes "groups")'
    )
    transfer(source, model, shapes={"bbox_pred": "groups"})
    assert torch.equal(model["bbox_pred"].bias, source["bbox_pred"].bias[:24])


def test_the_boxes_of_anchors_tell_how_many_there_are_of_classes_that_nobody_knows():
    def head(classes: int) -> nn.Module:
        return nn.ModuleDict(
            {"stem": nn.Conv2d(3, 8, 1), "cls": nn.Conv2d(8, 9 * classes, 1), "box": nn.Conv2d(8, 36, 1)}
        )

    source, model = randomised(head(4), 1), randomised(head(7), 2)
    assert transfer(source, model, shapes="slice").model_counts["mismatched"] == 2
    transfer(source, model, shapes="blocks")
    assert torch.equal(model["cls"].bias.reshape(9, 7)[:, :4], source["cls"].bias.reshape(9, 4))


def test_features_that_another_layer_reads_are_no_classes_of_anchors():
    def chain(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 1), nn.BatchNorm2d(width), nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, 9, 1)
        )

    source, model = randomised(chain(160), 1), randomised(chain(40), 2)
    report = transfer(source, model, shapes="slice")
    assert report.ok
    assert torch.equal(model[0].weight, source[0].weight[:40])
    assert not report.remarks


def test_rows_of_maps_that_could_lie_in_blocks_are_taken_and_said():
    source, model = randomised(_head(44), 1), randomised(_head(32), 2)
    report = transfer(source, model, shapes="slice")
    assert torch.equal(model["cls"].bias, source["cls"].bias[:32])
    assert report.remarks == (
        "the first rows were taken of cls.weight and 1 more; if they lie in blocks, as the classes of each anchor do, "
        'others belong: keep={"cls": [...]} says every row, shapes={"cls": "groups"} that these are right',
    )
    assert not transfer(source, model, shapes={"cls": "groups"}).remarks
