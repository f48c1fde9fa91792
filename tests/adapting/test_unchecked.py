"""A plan says what the captures of both modules left unchecked."""

from __future__ import annotations

import torch
from small_models import Pyramid

import autoadapt as aa

IMAGES = torch.zeros(2, 3, 32, 48)


def test_a_module_that_never_ran_for_real_is_said_to_be_unchecked():
    new, old = aa.capture(Pyramid(4, 8).to("meta"), IMAGES), aa.capture(Pyramid(4, 8), IMAGES)
    (told,) = [remark for remark in aa.plan(new, old).remarks if "unchecked" in remark]
    assert told == "Pyramid never ran for real, so that its values are unchecked: its weights are on the meta device"
    assert not [remark for remark in aa.plan(old, old).remarks if "unchecked" in remark]


def test_outputs_without_a_second_size_to_check_them_at_are_named_where_they_are_read():
    whole = aa.capture(Pyramid(4, 8), IMAGES)
    doubtful = whole.model_copy(update={"unverified": ("1",)})
    said = "sizes of 1 of Pyramid are unchecked: no image size was left to try them at"
    assert [said in aa.plan(*pair).remarks for pair in ((doubtful, whole), (whole, doubtful), (whole, whole))] == [
        True,
        True,
        False,
    ]
    assert said not in aa.plan(doubtful, whole, outputs=["0"]).remarks
