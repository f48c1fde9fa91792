"""The figures that decoders and detectors are measured by are those of the literature, on cases known by hand."""

import random

import pytest
import torch

dense = pytest.importorskip("benchmarks.dense_heads", reason="run pytest from the root of the repository")
scenes = pytest.importorskip("benchmarks.scenes")
pytest.importorskip("torchvision", reason="torchvision is not installed; zoo extra")


def scene(boxes, labels):
    return scenes.Scene(torch.zeros(0), torch.zeros(0), torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels))


def found(boxes, labels, scores):
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels),
        "scores": torch.tensor(scores),
    }


def test_average_precision_counts_each_box_once_and_the_surest_first():
    one, two = [0.0, 0, 10, 10], [20.0, 20, 30, 30]
    judged = [scene([one, two], [1, 1]), scene([one], [2])]
    exact = [found([one, two], [1, 1], [0.9, 0.8]), found([one], [2], [0.7])]
    assert [dense.average_precision(exact, judged, label) for label in (1, 2)] == [1, 1]
    twice = [found([one, one, two], [1, 1, 1], [0.9, 0.8, 0.7]), found([], [], [])]
    assert dense.average_precision(twice, judged, 1) == pytest.approx((1 + 2 / 3) / 2)  # the copy is wrong
    assert dense.average_precision(twice, judged, 2) == 0
    elsewhere = [found([two], [2], [0.9]), found([one], [2], [0.5])]
    assert dense.average_precision(elsewhere, judged, 2) == pytest.approx(1 / 2)


def test_steps_are_counted_to_where_the_line_between_two_evaluations_crosses():
    worths = {0: 0.2, 8: 0.4, 16: 0.3, 32: 0.6}
    assert dense.steps_to(worths, 0.1) == 0
    assert dense.steps_to(worths, 0.3) == pytest.approx(4)
    assert dense.steps_to(worths, 0.45) == pytest.approx(24)
    assert dense.steps_to(worths, 0.9) == float("inf")


def test_boxes_and_masks_of_a_scene_say_the_same():
    square = scenes._Cutout(torch.cat([torch.rand(3, 9, 9), torch.ones(1, 9, 9)]), 3)
    for seed in range(8):
        made = scenes._scene([square], torch.rand(2, 3, 2 * scenes.SIZE, 2 * scenes.SIZE), random.Random(seed))
        assert set(made.mask.unique().tolist()) == {0, 3}
        for left, top, right, bottom in made.boxes.int().tolist():
            inside = made.mask[top:bottom, left:right] == 3
            assert all(bool(side.any()) for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        assert made.image.abs().max() <= 1
