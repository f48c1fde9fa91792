"""Outputs whose channels and cells are one axis, as flattening leaves them, keep their places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import autoadapt as aa
from autoadapt.contracts.signature import TensorSpec


class Flattened(nn.Module):
    """A small network, and a way to merge axes of its last map."""

    def __init__(self, ways: str, axes: int = 2, *, pool: int = 0) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
        adaptive = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[axes]
        torch.manual_seed(0)
        self.layers = nn.Sequential(conv(3, 8, 3, 2, 1), nn.ReLU(), conv(8, 12, 3, 2, 1))
        self.pool = adaptive(pool) if pool else nn.Identity()
        self.ways = ways

    def forward(self, x: Tensor) -> Tensor:
        """Shape: `[B, 3, *spatial]` -> as `ways` has it."""
        return WAYS[self.ways](self.pool(self.layers(x)))


class Maps(Flattened):
    """The same network, which returns the map."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape: `[B, 3, *spatial] -> [B, 12, *spatial]`."""
        return self.layers(x)


WAYS = {
    "flatten": lambda x: x.flatten(1),
    "view": lambda x: x.view(len(x), -1),
    "then relu and dropout": lambda x: nn.functional.dropout(x.flatten(1).relu(), training=False),
    "channels last": lambda x: x.movedim(1, -1).reshape(len(x), -1),
    "columns first": lambda x: x.transpose(2, 3).reshape(len(x), -1),
    "tokens, flattened": lambda x: x.flatten(2).transpose(1, 2).flatten(1),
    "rows into channels": lambda x: x.permute(0, 3, 1, 2).flatten(2),
    "rows beside channels": lambda x: x.permute(0, 3, 2, 1).flatten(2),
    "frames of columns": lambda x: x.permute(3, 0, 1, 2).flatten(2),
    "channels and rows": lambda x: x.flatten(1, 2),
    "boxes of a detector": lambda x: x.unflatten(1, (4, 3)).permute(0, 3, 4, 1, 2).flatten(1),
    "boxes, listed first": lambda x: x.permute(0, 2, 3, 1).reshape(len(x), -1, 3).flatten(1),
}
MIXED = {
    "boxes around cells": lambda x: x.unflatten(1, (4, 3)).permute(0, 1, 3, 4, 2).flatten(1),
    "halves on top of one another": lambda x: torch.cat(x.chunk(2, 1), 2).flatten(1),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("ways", WAYS)
def test_flattened_maps_are_served_by_maps(ways: str) -> None:
    """The new network is the old one before it flattens: outputs are equal, at sizes that were not captured, too."""
    old, new = Flattened(ways).eval(), Maps(ways).eval()
    if ways == "then relu and dropout":
        old.layers.append(nn.ReLU())
        new.layers.append(nn.ReLU())
    net = aa.adapt(new, like=old, inputs=torch.rand(2, 3, 40, 64)).eval()
    for size in ((40, 64), (33, 50), (48, 48)):
        image = torch.rand(2, 3, *size)
        assert torch.equal(net(image), old(image))
    assert aa.verify(net, net.signature).passed


@pytest.mark.parametrize("size", [48, 64])
@pytest.mark.parametrize("ways", ["flatten", "channels last", "columns first"])
def test_the_order_is_seen_on_square_maps(ways: str, size: int) -> None:
    """Turning a square map changes no size; and 48 pixels make as many rows as there are channels."""
    old, new = Flattened(ways).eval(), Maps(ways).eval()
    image = torch.rand(2, 3, size, size)
    assert torch.equal(aa.adapt(new, like=old, inputs=image).eval()(image), old(image))


def test_verify_tells_another_order() -> None:
    """Of equal shapes: rows beside channels where channels stand last."""
    image = torch.rand(2, 3, 40, 64)
    net = aa.adapt(Maps("flatten"), like=Flattened("flatten"), inputs=image)
    report = aa.verify(net, aa.capture(Flattened("channels last"), image))
    told = [fault for fault in report["signature"].faults if fault.expected.startswith("axis 1 lists")]
    assert [fault.found for fault in told] == ["axis 1 lists 12 x ceil(H/4) along H x ceil(W/4) along W"]


@pytest.mark.parametrize("way", MIXED)
def test_an_order_that_is_not_known_is_refused(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels on both sides of cells: no order of channels, rows and columns is taken for granted."""
    monkeypatch.setitem(WAYS, way, MIXED[way])
    with pytest.raises(aa.MatchError, match="in which order channels and cells stand"):
        aa.adapt(Maps(way), like=Flattened(way), inputs=torch.rand(2, 3, 40, 64))


class Strict(nn.Module):
    """Takes multiples of 8 alone, so that the number of rows is H / 8 and no rounding."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Shape: that of the inner module."""
        if x.shape[2] % 8 or x.shape[3] % 8:
            raise ValueError("multiples of 8 alone")
        return self.inner(x)


@pytest.mark.parametrize("ways", ["flatten", "channels last"])
def test_sizes_in_steps_are_rounded_as_the_map_is(ways: str) -> None:
    """`4*H*floor(W/8)` entries are 12 channels of a number of rows and columns."""
    old, new = Strict(Flattened(ways)).eval(), Strict(Maps(ways)).eval()
    net = aa.adapt(new, like=old, inputs=torch.rand(2, 3, 64, 64)).eval()
    image = torch.rand(2, 3, 48, 80)
    assert torch.equal(net(image), old(image))


def test_as_many_cells_as_channels_after_pooling_a_sequence() -> None:
    """12 channels of 12 cells, turned: the pooled map says which are which."""
    turned = Flattened("flatten", 1, pool=12).eval()
    turned.pool = nn.Sequential(turned.pool, Turn())
    new = nn.Sequential(turned.layers, nn.AdaptiveAvgPool1d(12)).eval()
    image = torch.rand(2, 3, 96)
    net = aa.adapt(new, like=turned, inputs=image).eval()
    assert str(net.signature.outputs["output"].merged) == "axis 1 lists 12 along N x 12"
    assert torch.allclose(net(image), turned(image), atol=1e-6)


class Turn(nn.Module):
    """Channels last."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape: `[B, C, N] -> [B, N, C]`."""
        return x.transpose(1, 2)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_flattened_maps_of_fixed_size_keep_their_places(axes: int) -> None:
    """Adaptive pooling before: the map is resized to its cells, not averaged and mixed by a large linear layer."""
    old, new = Flattened("flatten", axes, pool=2).eval(), Maps("flatten", axes).eval()
    image = torch.rand(2, 3, *[16] * axes)
    net = aa.adapt(new, like=old, inputs=image).eval()
    assert not [*net.adapters.parameters()]
    assert torch.allclose(net(image), old(image), atol=1e-6)


def test_a_flattened_map_of_another_width_is_projected_as_a_map() -> None:
    """12 channels from 20: one 1x1 convolution before flattening, of 20 * 12 weights, and not one for each place."""
    old = Flattened("flatten", pool=4).eval()
    new = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 20, 3, 2, 1)).eval()
    net = aa.adapt(new, like=old, inputs=torch.rand(2, 3, 32, 32))
    assert sum(one.numel() for one in net.adapters.parameters()) == 20 * 12 + 12


def test_flattened_maps_of_two_networks_serve_one_another() -> None:
    """A new network that flattens, too, is served from the map before that."""
    old, new = Flattened("channels last", pool=3).eval(), Flattened("flatten", pool=3).eval()
    net = aa.adapt(new, like=old, inputs=torch.rand(2, 3, 32, 32)).eval()
    image = torch.rand(3, 3, 32, 32)
    assert torch.allclose(net(image), old(image), atol=1e-6)


class Frames(nn.Module):
    """Each frame of a clip by itself, flattened or not."""

    def __init__(self, frame: Flattened) -> None:
        super().__init__()
        self.frame = frame

    def forward(self, x: Tensor) -> Tensor:
        """Shape: `[B, T, 3, H, W] -> [B, T, *frame]`."""
        return self.frame(x.flatten(0, 1)).unflatten(0, x.shape[:2])


@pytest.mark.parametrize(("ways", "pool"), [("flatten", 0), ("channels last", 0), ("flatten", 4), ("columns first", 4)])
def test_flattened_frames_of_clips_are_served_by_maps(ways: str, pool: int) -> None:
    """As the vectors that a recurrent layer reads, one for each frame."""
    old, new = Frames(Flattened(ways, pool=pool)).eval(), Frames(Maps(ways)).eval()
    net = aa.adapt(new, like=old, inputs=torch.rand(2, 5, 3, 32, 32)).eval()
    clip = torch.rand(1, 7, 3, 32, 32)
    assert torch.allclose(net(clip), old(clip), atol=1e-6)


def test_what_is_merged_is_told_and_read_again() -> None:
    """The text of a spec holds it, and `parse` reads it."""
    spec = aa.capture(Flattened("rows into channels"), torch.rand(2, 3, 40, 64)).outputs["output"]
    assert str(spec.merged) == "axis 2 lists 12 x ceil(H/4) along H"
    assert TensorSpec.parse(spec.in_full).merged == spec.merged
    fixed = TensorSpec.parse("f32[B, 588] axis 1 lists 12 x 7 along H x 7 along W never negative")
    assert (str(fixed.merged), str(fixed.holds)) == ("axis 1 lists 12 x 7 along H x 7 along W", "never negative")


def _shuffled(x: Tensor) -> Tensor:
    return nn.functional.pixel_shuffle(x, 2)


def _patches(x: Tensor) -> Tensor:
    return nn.functional.pixel_unshuffle(x, 2)


def _heads(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return tokens.unflatten(2, (3, 4)).transpose(1, 2).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("way", [_shuffled, _patches, _heads, lambda x: x.mean((2, 3)), lambda x: x.flatten(2)])
def test_other_reshaping_is_not_taken_for_flattening(way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffled pixels, patches, heads of attention, pooled vectors and tokens list cells and channels apart."""
    monkeypatch.setitem(WAYS, "other", way)
    assert aa.capture(Flattened("other"), torch.rand(2, 3, 48, 64)).outputs["output"].merged is None


def test_a_layer_behind_flattening_mixes_places() -> None:
    """Its output is a vector of features."""
    model = nn.Sequential(Flattened("flatten", pool=2), nn.Linear(48, 48))
    assert aa.capture(model, torch.rand(2, 3, 40, 64)).outputs["output"].merged is None


def test_an_axis_of_another_dim_is_not_taken_for_the_merged_one() -> None:
    """As behind the step that splits it."""
    spec = TensorSpec.parse("f32[B, 588] axis 1 lists 12 x 7 along H x 7 along W")
    assert spec.with_dims(spec.dims).merged == spec.merged
    split = TensorSpec.parse("f32[B, 12, 7, 7]").dims
    assert spec.with_dims(split).merged is None
    assert spec.with_dims(split[:1]).merged is None
