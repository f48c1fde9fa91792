"""Faults that show in part alone: values that are infinite, channels without gradient, the smallest sizes."""

import pytest
import torch
from hypothesis import find
from torch import nn

import autoadapt as aa
from autoadapt.testing import assert_adapts, assert_same_signature, inputs_of

X = torch.randn(2, 3, 32, 32)


class Patches(nn.Conv2d):
    """Maps of a quarter of the input's size."""

    def __init__(self):
        super().__init__(3, 8, 4, 4)


class Infinite(Patches):
    def forward(self, x):
        return super().forward(x) + float("inf")


class PartlyInfinite(Patches):
    def forward(self, x):
        maps = super().forward(x)
        return maps.masked_fill(maps == maps.max(), float("inf")) if self.training else maps


class HalfDetached(Patches):
    def forward(self, x):
        maps = super().forward(x)
        return torch.cat([maps[:, :4], maps[:, 4:].detach()], 1)


class OneDetachedInTraining(Patches):
    def forward(self, x):
        maps = super().forward(x)
        return torch.cat([maps[:, :1].detach(), maps[:, 1:]], 1) if self.training else maps


class AttentionDetached(Patches):
    """An attention between the places, whose kernel can be differentiated once only."""

    def forward(self, x):
        tokens = super().forward(x).flatten(2).mT
        mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mT.unflatten(
            2, (-1, x.shape[3] // 4)
        )
        return torch.cat([mixed[:, :6], mixed[:, 6:].detach()], 1)


class Dead(Patches):
    """Channels that are zero everywhere at first, as of any ReLU."""

    def forward(self, x):
        return (super().forward(x) - torch.linspace(0, 9, 8)[:, None, None]).relu()


class WithCoordinates(Patches):
    """A last channel that tells the column and follows no input."""

    def forward(self, x):
        maps = super().forward(x)
        columns = torch.linspace(0, 1, maps.shape[3], dtype=maps.dtype).expand_as(maps[:, :1])
        return torch.cat([maps[:, :7], columns], 1)


class EmptyWhereSmall(Patches):
    def forward(self, x):
        maps = super().forward(x)
        return maps[..., :-1] if x.shape[3] in (4, 5) else maps


class RaisesAt(Patches):
    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def forward(self, x):
        if x.shape[3] in self.sizes:
            raise ValueError("not this width")
        return super().forward(x)


class OnlyMultiples(Patches):
    def forward(self, x):
        if x.shape[3] % 4:
            raise ValueError("not this width")
        return super().forward(x)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Infinite, ": expected numbers, found infinity"),
        (PartlyInfinite, "train mode: output in training: expected numbers, found infinity"),
        (HalfDetached, "gradients: output, channels 4, 5, 6, 7 of 8, along axis 1: expected a gradient, found none"),
        (OneDetachedInTraining, "train mode: output, channels 0 of 8, along axis 1: expected a gradient, found none"),
        (AttentionDetached, "gradients: output, channels 6, 7 of 8, along axis 1: expected a gradient, found none"),
        (EmptyWhereSmall, "sizes: output at 1x4x4: expected [1, 8, 1, 1], found [1, 8, 1, 0]"),
    ],
)
def test_what_is_wrong_in_part_or_at_the_smallest_sizes_alone_is_found(made, says):
    with pytest.raises(AssertionError) as caught:
        assert_adapts(made(), X, like=Patches())
    assert says in str(caught.value)


@pytest.mark.parametrize("made", [Dead, WithCoordinates])
def test_channels_that_are_constant_or_follow_no_input_need_no_gradient(made):
    report = aa.verify(made(), aa.capture(Patches(), X), inputs=X)
    assert report["gradients"].outcome == report["train mode"].outcome == "passed", report


def test_what_an_old_module_returns_infinite_may_stay_so():
    assert aa.verify(Infinite(), aa.capture(Infinite(), X), inputs=X)["sizes"].outcome == "passed"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("wrong", [lambda: OnlyMultiples(), lambda: RaisesAt([5]), lambda: RaisesAt([41])])
def test_a_module_that_raises_where_another_runs_has_another_signature_either_way(wrong):
    assert_same_signature(Patches(), Patches(), X)
    for pair in [(wrong(), Patches()), (Patches(), wrong())]:
        with pytest.raises(AssertionError, match="not have the signature") as caught:
            assert_same_signature(*pair, X)
        assert "input axis W" in str(caught.value) or "ValueError: not this width" in str(caught.value)


def test_inputs_are_drawn_from_the_smallest_legal_size_on():
    strategy = inputs_of(aa.capture(Patches(), X))
    assert find(strategy, lambda x: True).shape[2:] == (4, 4)
