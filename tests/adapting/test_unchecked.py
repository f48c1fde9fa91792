"""A plan says what the captures of both modules left unchecked."""

from __future__ import annotations

import pytest
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


class ListedClips(torch.nn.Module):
    """Clips `[B, T, C, H, W]` as tokens with a table of positions, which allows one number of frames."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.embed = torch.nn.Conv3d(3, 8, (1, 8, 8), stride=(1, 8, 8))
        self.table = torch.nn.Parameter(torch.randn(16 * frames, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embed(x.transpose(1, 2)).flatten(2).transpose(1, 2) + self.table


@pytest.mark.parametrize(("frames", "told"), [(3, True), (4, False)])
def test_as_many_frames_as_colours_are_said_to_be_told_apart_by_their_place_alone(frames: int, told: bool) -> None:
    contract = aa.capture(ListedClips(frames), torch.randn(2, frames, 3, 32, 32))
    said = (
        "axes 1 and 2 of x of ListedClips are both 3 long and take no other size: "
        "axis 2 is taken for the frames, unchecked"
    )
    assert (said in aa.plan(contract, contract).remarks) == told
