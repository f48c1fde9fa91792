"""Inputs that a model writes to, as two-pathway networks put their features back into the list that they are given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa


class Pathways(nn.Module):
    """A list of clips or images, each of which is replaced by its features [B, width, H // 4, W // 4]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 2, 2), nn.Conv2d(width, width, 2, 2)

    def forward(self, xs):
        for layer in (self.first, self.second):
            for at in range(len(xs)):
                xs[at] = layer(xs[at])
        return xs


class Recogniser(nn.Module):
    """Scores from both pathways; the images are centred where they stand."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Pathways(6)
        self.heads = nn.ModuleList([nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)])

    def forward(self, xs):
        for x in xs:
            x.sub_(0.5)
        slow, fast = self.backbone(xs)
        return self.heads[0](slow).mean((2, 3)) + self.heads[1](fast).mean((2, 3))


@pytest.fixture
def given():
    torch.manual_seed(0)
    return [torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)]


def test_a_swap_and_a_fold_leave_the_lists_and_images_of_the_caller_as_they_are(given):
    before = [image.clone() for image in given]
    model = aa.swap(Recogniser().eval(), "backbone", Pathways(4).eval(), inputs=(given,))
    folded = aa.fold(model, at="backbone", inputs=(given,))
    assert all(map(torch.equal, given, before))
    answers = [one([image.clone() for image in given]) for one in (model, folded)]
    assert torch.allclose(*answers, atol=1e-5)


def test_looking_for_regions_leaves_them_too(given):
    before = [image.clone() for image in given]
    aa.regions(Recogniser().eval(), (given,))
    assert all(map(torch.equal, given, before))
