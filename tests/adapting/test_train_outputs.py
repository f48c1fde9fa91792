"""Modules that return other tensors in train mode: what can be served is, and the rest is said."""

from typing import NamedTuple

import pytest
import torch
import torchvision
from small_models import image
from torch import nn

import autoadapt as aa


class Scores(NamedTuple):
    """What comes out in train mode."""

    logits: torch.Tensor
    auxiliary: torch.Tensor


class Auxiliary(nn.Module):
    """A classifier with a second head in train mode."""

    def __init__(self, classes=5):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.head, self.second = nn.Linear(6, classes), nn.Linear(6, classes)

    def forward(self, x):
        pooled = self.body(x).mean((2, 3))
        logits = self.head(pooled)
        return Scores(logits, self.second(pooled)) if self.training else logits


class Plain(Auxiliary):
    """The same with one head."""

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class AuxiliaryOutside(Auxiliary):
    """No inner module returns the logits as they are."""

    def forward(self, x):
        pooled = self.body(x).mean((2, 3))
        return Scores(self.head(pooled) * 2, self.second(pooled)) if self.training else self.head(pooled) * 2


def test_what_train_mode_returns_is_captured():
    signature = aa.capture(Auxiliary(), image())
    assert [str(spec) for spec in signature.outputs.leaves] == ["f32[B, 5]"]
    assert signature.train_outputs.paths == ("logits", "auxiliary")
    assert "in train mode  Scores of 2" in str(signature)
    assert aa.capture(Plain(), image()).train_outputs is None


def test_a_new_module_with_auxiliary_outputs_serves_in_both_modes():
    new = Auxiliary()
    net = aa.adapt(new, like=Plain(), inputs=image(), pairs={"output": "output"})
    for mode in (True, False):
        net.train(mode)
        new.train(mode)
        expected = new(image())
        assert torch.equal(net(image()), expected.logits if mode else expected)
    assert "Auxiliary returns Scores of 2 (logits, auxiliary) in train mode" in net.plan.remarks[0]
    net.verify(image()).raise_if_failed()


def test_it_is_refused_where_no_inner_module_returns_the_output():
    with pytest.raises(aa.PlanError) as caught:
        aa.adapt(AuxiliaryOutside(), like=Plain(), inputs=image(), pairs={"output": "output"})
    assert str(caught.value) == (
        "AuxiliaryOutside returns something else in train mode\noutput\n  expected  f32[B, 5]\n"
        "  found     Scores of 2 (logits, auxiliary) in train mode\n"
        "  try       taps={...} names an inner module that returns it"
    )


def test_what_an_old_module_returns_in_train_mode_alone_is_said():
    net = aa.adapt(Plain(7), like=Auxiliary(), inputs=image())
    said = "the adapted module returns in both what it does in eval mode"
    assert net.plan.remarks == (f"Auxiliary returns Scores of 2 (logits, auxiliary) in train mode; {said}",)
    assert "auxiliary" in str(net.plan)
    net.train()
    assert net(image()).shape == (2, 5)


@pytest.mark.slow
def test_googlenet_speaks_like_a_resnet_in_both_modes():
    new = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True)
    net = aa.adapt(
        new, like=aa.Signature.parse("f32[B, 1000]", inputs="f32[B, 3, H, W]"), inputs=torch.zeros(2, 3, 64, 64)
    )
    for mode in (True, False):
        net.train(mode)
        assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)
