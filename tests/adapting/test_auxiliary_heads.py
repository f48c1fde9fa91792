"""Auxiliary heads, which run in train mode alone: they go with what they read, and what the levels need stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LEVEL = {"p1": "f32[B, 8, ceil(H/2), ceil(W/2)]"}


class Classifier(nn.Module):
    """Returns the scores of its auxiliary head too while it is trained, as GoogLeNet and Inception do."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, width, 3, 2, 1)
        self.aux = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))
        self.fc = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.second(self.first(x))
        beside = self.aux(x) if self.training else None
        scores = self.fc(x.mean((2, 3)))
        return scores if beside is None else (scores, beside)


class Disturbed(nn.Module):
    """What one of its layers makes is added in train mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.noise = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 3, 1)
        self.second = nn.Conv2d(8, 12, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x + self.noise(x)) if self.training else self.first(x)
        return self.second(x)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("width", [8, 12], ids=["runs on what is left", "raises on what is left"])
@pytest.mark.parametrize("training", [False, True])
def test_a_head_that_reads_what_is_cut_in_train_mode_is_cut_with_it(training, width, tmp_path):
    model = Classifier(width).train(training)
    net = aa.adapt(model, like=LEVEL, inputs=IMAGES)
    assert set(net.plan.cut) == {"second", "aux", "fc"}
    assert net.plan.frozen == ()
    assert (
        net.plan.saved.parameters
        == sum(p.numel() for p in (*model.second.parameters(), *model.fc.parameters()))
        + model.aux[2].weight.numel()
        + 5
    )
    aa.save(net, tmp_path / "net")
    for made in (net, aa.restore(tmp_path / "net", Classifier(width))):
        assert made.train()(IMAGES)["p1"].shape == (2, 8, 16, 16)
    assert net.verify(IMAGES).passed
    assert len(model.train()(IMAGES)) == 2


def test_a_layer_that_the_level_needs_in_train_mode_stays_and_is_trained():
    net = aa.adapt(Disturbed(), like=LEVEL, inputs=IMAGES)
    assert net.plan.cut == ("second",)
    assert net.plan.frozen == ()
    net.train()(IMAGES)["p1"].sum().backward()
    assert net.backbone.noise.weight.grad is not None
