"""A contract in texts says nothing of what goes in: the inputs that the caller gives do, and are never passed over."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn

import autoadapt as aa

TEXT = "f32[B, 64, H//4, W//4]"
X = torch.rand(2, 3, 64, 64)


@pytest.fixture(scope="module")
def new() -> nn.Module:
    return timm.create_model("test_resnet").eval()


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_are_the_inputs_of_the_contract(new: nn.Module, channels: int) -> None:
    given = torch.rand(2, channels, 64, 96)
    net = aa.adapt(new, like=TEXT, inputs=given)
    assert str(net.plan.target.inputs["x"]) == f"f32[B, {channels}, H, W]"
    assert net(given).shape == (2, 64, 16, 24)
    assert net.verify(given).passed


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        (X[0], "[3, 64, 64] of float32"),
        (X.permute(0, 2, 3, 1), "[2, 64, 64, 3] of float32"),
        (X[:, :, None], "[2, 3, 1, 64, 64] of float32"),
        (torch.zeros(2, 5, dtype=torch.int64), "[2, 5] of int64"),
        ([X, X], "[2, 3, 64, 64] of float32, [2, 3, 64, 64] of float32"),
    ],
)
def test_other_inputs_are_refused_though_the_model_tells_what_it_takes(
    new: nn.Module, inputs: object, found: str
) -> None:
    with pytest.raises(aa.AdaptError) as caught:
        aa.adapt(new, like=TEXT, inputs=inputs)
    (fault,) = caught.value.mismatches
    assert (fault.where, fault.expected, fault.found) == ("inputs", "f32[B, 3, H, W]", found)
    assert fault.remedy.startswith("inputs=torch.zeros(2, 3, 160, 160)")


@pytest.mark.parametrize("text", ["f32[B, 64, H//4000, W//4000]", "f32[B, 64, H - 100, W]"])
def test_outputs_that_are_empty_at_the_size_of_the_inputs_are_refused(new: nn.Module, text: str) -> None:
    with pytest.raises(aa.AdaptError, match=re.escape("sizes of 1 or more at B=2, H=64, W=64")):
        aa.adapt(new, like=text, inputs=X)


def test_an_axis_with_a_side_twice_is_an_axis(new: nn.Module) -> None:
    assert aa.adapt(new, like="f32[B, 64, H*H, W]", inputs=X[..., :32, :32])(X[..., :32, :32]).shape[2:] == (1024, 32)
