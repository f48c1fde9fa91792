"""Outputs that a model decodes, such as the words that it reads in an image, are values: they may be others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoadapt.errors import SwapError
from autoadapt.swapping import swap

X = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


class Trunk(nn.Sequential):
    """An image [B, 3, H, W] -> features [B, width, H // 4, W // 4]."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Conv2d(3, width, 4, 4), nn.Conv2d(width, width, 1), nn.ReLU())


class Reader(nn.Module):
    """A recogniser of text: scores, and of each image what was read there, as many signs as it found."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.backbone = Trunk(8)
        self.head = nn.Conv2d(8, 26, 1)
        self.name = name

    def forward(self, x):
        features = self.backbone(x)
        scores = self.head(features).mean(2)
        signs = [[chr(97 + int(at)) for at in row.argmax(0) if at % 2] for row in scores]
        return {"scores": scores, "read": [("".join(one), one) for one in signs], "by": self.name or features.shape[1]}


class Signed(Reader):
    """One that returns a text of its own, whatever it read."""

    def forward(self, x):
        return super().forward(x) | {"kind": type(self.backbone).__name__}


@pytest.mark.parametrize("path", ["backbone", "backbone.0:backbone.2"])
def test_a_model_that_returns_texts_it_decoded_is_swapped(path):
    torch.manual_seed(0)
    old = Reader("reader").eval()
    before = old(X)
    model = swap(old, path, Trunk(12).eval(), inputs=X)
    after = model(X)
    assert [one[0] for one in before["read"]] != [one[0] for one in after["read"]]
    assert after["by"] == "reader"
    assert after["scores"].shape == before["scores"].shape


def test_a_text_that_does_not_follow_the_values_must_stay():
    with pytest.raises(SwapError, match="does not return what it did") as caught:
        swap(Signed().eval(), "backbone", Trunk(12).eval(), inputs=X)
    assert [fault.where for fault in caught.value.mismatches] == ["kind"]
