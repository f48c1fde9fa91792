"""An axis of one entry lists channels where nothing else does, and is otherwise left out or put in as before."""

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.adapting.layouts import Refusal, chain
from autoadapt.contracts.signature import TensorSpec


def steps(source, target, **options):
    found = chain(TensorSpec.parse(source), TensorSpec.parse(target), **options)
    return found.why if isinstance(found, Refusal) else [str(step) for step in found]


MAP, TOKENS = "ceil(H/4), ceil(W/4)", "ceil(H/4)*ceil(W/4)"
NEVER = "a mask is passed on or picked from, never projected or interpolated"


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (f"f32[B, 12, {MAP}]", f"f32[B, 1, {MAP}]", ["12->1"]),
        (f"f32[B, 1, {MAP}]", f"f32[B, 8, {MAP}]", ["1->8"]),
        (f"f32[B, {TOKENS}, 12]", f"f32[B, {TOKENS}, 1]", ["12->1"]),
        (f"f32[B, 12, {MAP}]", f"f32[B, {MAP}, 1]", ["b c h w -> b h w c", "12->1"]),
        (f"f32[B, 1, {MAP}]", f"f32[B, {TOKENS}, 8]", ["b c h w -> b (h w) c", "1->8"]),
        ("f32[B, 12]", "f32[B, 1]", ["12->1"]),
        ("f32[B, 1]", "f32[B, 8]", ["1->8"]),
        (f"f32[B, 1, {MAP}]", "f32[B, 8]", ["mean over 2, 3", "1->8"]),
        ("f32[B, 12, ceil(N/4)]", "f32[B, 1, ceil(N/4)]", ["12->1"]),
        (f"f32[B, 1, 12, {MAP}]", f"f32[B, 1, {MAP}]", ["b 1 c h w -> b c h w", "12->1"]),
        (f"f32[B, 1, {MAP}]", f"f32[B, {MAP}]", ["b 1 h w -> b h w"]),
        (f"f32[B, {MAP}]", f"f32[B, 1, {MAP}]", ["b h w -> b 1 h w"]),
        (f"f32[B, 1, 8, {MAP}]", f"f32[B, 8, {MAP}]", ["b 1 c h w -> b c h w"]),
        ("f32[B, 8]", "f32[B, 1, 8]", ["b c -> b 1 c"]),
        (f"f32[B, 12, {MAP}]", f"f32[B, {MAP}]", "the source has one constant axis more than the target (12)"),
        (f"f32[B, 4, 8, {MAP}]", f"f32[B, 1, 8, {MAP}]", "the source has one constant axis more than the target (8)"),
        (f"f32[B, 1, {MAP}] mask", f"f32[B, 8, {MAP}] mask", NEVER),
    ],
)
def test_one_channel_is_projected_as_several_are(source, target, expected):
    assert steps(source, target) == expected


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (f"f32[B, 1, {MAP}]", f"f32[B, 1, {MAP}]", ["1->1"]),
        (f"f32[B, {TOKENS}, 1]", f"f32[B, 1, {MAP}]", ["b (h w) c -> b c h w", "1->1"]),
        ("f32[B, 1]", "f32[B, 1]", ["1->1"]),
        (f"f32[B, {MAP}]", f"f32[B, {MAP}]", []),
        (f"f32[B, 1, {MAP}]", f"f32[B, {MAP}]", ["b 1 h w -> b h w"]),
    ],
)
def test_one_channel_is_projected_onto_one_where_all_channels_are(source, target, expected):
    assert steps(source, target, project=True) == expected


def convolution(channels, dims=2):
    torch.manual_seed(channels)
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](3, channels, 4, 4).eval()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("new", "old"), [(12, 1), (1, 8)])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_of_one_channel_serves_and_is_served(new, old, dims):
    x = torch.randn(2, 3, *(8,) * dims)
    backbone = convolution(new, dims)
    net = aa.adapt(backbone, like=convolution(old, dims), inputs=x)
    layer = net.adapters.output.project
    expected = torch.einsum("bn...,on->bo...", backbone(x), layer.weight.flatten(1))
    assert torch.allclose(net(x), expected + layer.bias.view(-1, *(1,) * dims), atol=1e-6)
    assert net.verify().passed


@pytest.mark.sampled(1)
@pytest.mark.parametrize("text", ["f32[B, 1, H//4, W//4]", "f32[B, H//4, W//4, 1]", "f32[B, 1]", "f32[B, 1, 1, 1]"])
def test_a_contract_of_one_channel_in_text_is_served(text):
    net = aa.adapt(convolution(8), like=text, inputs=torch.randn(2, 3, 16, 16))
    assert net.verify().passed


def test_one_channel_is_fitted_where_a_projection_is_asked_for():
    old = convolution(1)
    net = aa.adapt(nn.Sequential(old, nn.Conv2d(1, 1, 1)), like=old, inputs=torch.randn(2, 3, 16, 16), project="always")
    data = [torch.randn(8, 3, 16, 16) for _ in range(4)]
    aa.calibrate(net, like=old, data=data, augment=0)
    assert torch.allclose(net(data[0]), old(data[0]), atol=1e-3)


class Depth(nn.Module):
    """Features, and a depth that is read off them."""

    def __init__(self, channels, stride, gate=False):
        super().__init__()
        self.features = nn.Conv2d(3, channels, stride, stride)
        self.gate = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.Conv2d(4, 1, 1)) if gate else None
        self.depth = nn.Conv2d(channels, 1, 1)

    def forward(self, x):
        features = self.features(x)
        if self.gate is not None:
            features = features * self.gate(features).sigmoid()
        return features, self.depth(features)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_a_depth_serves_a_depth_and_features_features(gate, stride):
    x = torch.randn(2, 3, 32, 32)
    net = aa.adapt(Depth(12, stride, gate).eval(), like=Depth(8, 4).eval(), inputs=x)
    assert [route.source for route in net.plan.routes] == ["0", "1"]
    assert not any("->" in str(step) for step in net.plan.routes[1].steps)
    of_one = (aa.adapt(Depth(12, stride, gate).eval(), like=Depth(8, 4).eval(), inputs=x, outputs=[o]) for o in "01")
    assert [net.plan.routes[0].source for net in of_one] == ["0", "1"]


def test_an_axis_that_is_put_in_does_not_make_layers_of_five_axes():
    assert steps(f"f32[B, 12, {MAP}]", f"f32[B, 8, 1, {MAP}]") == ["12->8", "b c h w -> b c 1 h w"]
