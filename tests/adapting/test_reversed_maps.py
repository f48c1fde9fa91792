"""Maps that list their cells from the last to the first are served so: they were served unturned, without a word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import autoadapt as aa
from autoadapt.contracts.signature import TensorSpec


class Turned(nn.Module):
    """A small network, and what is done to its last map."""

    def __init__(self, way: str, axes: int = 2) -> None:
        super().__init__()
        conv = nn.Conv2d if axes == 2 else nn.Conv1d
        torch.manual_seed(0)
        self.layers = nn.Sequential(conv(3, 8, 3, 2, 1), nn.ReLU(), conv(8, 12, 3, 2, 1))
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        """Shape: `[B, 3, *spatial]` -> as `way` has it."""
        return {**WAYS, **OTHERS}[self.way](self.layers(x))


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x,
    "left and right": lambda x: x.flip(-1),
    "upside down": lambda x: x.flip(2),
    "upside down, channels last": lambda x: x.flip(2).movedim(1, -1),
    "a quarter turn": lambda x: x.rot90(1, (2, 3)),
    "three quarter turns": lambda x: x.rot90(3, (2, 3)),
    "half a turn": lambda x: x.rot90(2, (2, 3)),
    "cut off behind": lambda x: x.flip(-1)[..., 2:],
    "turned back": lambda x: x.flip(-1).relu().flip(-1),
    "flattened": lambda x: x.flip(-1).flatten(2),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "turned, then pooled": lambda x: functional.max_pool2d(x.flip(-1), 3, 2, 1),
    "turned, every second": lambda x: x.flip(-1)[..., ::2],
    "rolled": lambda x: x.roll((3, -4), (2, 3)),
    "rolled as one row": lambda x: x.roll(7),
    "rolled, on top": lambda x: torch.cat([x, x.roll(1, -1)], 1),
    "rolled back": lambda x: x.roll((3, -4), (2, 3)).relu().roll((-3, 4), (2, 3)),
    "rolled, beside it": lambda x: x + x.roll(1, -1),
    "turned, on top": lambda x: torch.cat([x, x.flip(-1)], 1),
    "turned, between": lambda x: torch.stack([x, x.flip(-1)], 2).flatten(1, 2),
    "turned, beside it": lambda x: x + x.flip(-1),
    "picked": lambda x: x[..., torch.arange(x.shape[3] - 1, -1, -1)],
    "selected": lambda x: x.index_select(3, torch.arange(x.shape[3] - 1, -1, -1)),
    "sorted": lambda x: x.sort(-1).values,
    "sampled": lambda x: functional.grid_sample(x, _mirrored(x), align_corners=False),
}


def _mirrored(x: Tensor) -> Tensor:
    """A grid that swaps left and right."""
    return functional.affine_grid(torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]]).expand(len(x), 2, 3), [*x.shape], False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *((way, "as it is") for way in WAYS if way not in ("turned back", "flattened", "as it is")),
        ("as it is", "left and right"),
        ("as it is", "three quarter turns"),
        ("left and right", "upside down"),
        ("a quarter turn", "a quarter turn"),
    ],
)
def test_reversed_maps_are_served_by_others(old: str, new: str) -> None:
    """Both have the same weights: outputs are equal, at a size that was not captured, too, and verify agrees."""
    contract, image = Turned(old).eval(), torch.rand(2, 3, 40, 64)
    net = aa.adapt(Turned(new), like=contract, inputs=image).eval()
    for one in (image, torch.rand(1, 3, 33, 51)):
        assert torch.equal(net(one), contract(one))
    assert aa.verify(net, net.signature, inputs=image).passed


def test_sequences_that_are_reversed_are_served() -> None:
    """Along the one axis of a sequence."""
    contract, sound = Turned("left and right", 1).eval(), torch.rand(2, 3, 64)
    net = aa.adapt(Turned("as it is", 1), like=contract, inputs=sound).eval()
    assert torch.equal(net(sound[..., :51]), contract(sound[..., :51]))


def test_reversed_maps_of_other_sizes_are_turned_before_and_behind() -> None:
    """Cells are resampled where they stand as in the input: the last ones of an odd size lie where they did."""
    wide = nn.Sequential(nn.Conv2d(3, 12, 2, 2), nn.Conv2d(12, 12, 2, 2), nn.Conv2d(12, 20, 1))
    net = aa.adapt(wide, like=Turned("left and right"), inputs=torch.rand(2, 3, 40, 64))
    steps = [step.op for step in net.plan.routes[0].steps]
    assert steps[-1] == "flip"
    assert "flip" not in steps[:-1]
    assert aa.verify(net, net.signature).passed


_BACK = ["turned back", "rolled back", "rolled, beside it"]
_STRIDED = ["turned, then pooled", "turned, every second"]


@pytest.mark.parametrize("way", _BACK)
def test_what_is_turned_back_needs_no_layer(way: str) -> None:
    """Flipping or rolling twice lists cells as they stood; what is added to a residual stream leaves it where it is."""
    net = aa.adapt(Turned(way), like=Turned("as it is"), inputs=torch.rand(2, 3, 40, 64))
    assert not net.plan.routes[0].steps
    assert [str(one) for one in net.plan.source.outputs["output"].centres] == ["0 + 4 i", "0 + 4 i"]


@pytest.mark.parametrize("way", [_STRIDED[0], pytest.param(_STRIDED[1], marks=pytest.mark.slow)])
def test_strides_behind_a_turn_are_turned(way: str) -> None:
    """Which cells are passed over depends on the size; those that are read lie at most half a step from them."""
    net = aa.adapt(Turned("as it is"), like=Turned(way), inputs=torch.rand(2, 3, 40, 64)).eval()
    assert str(net.signature.outputs["output"].centres[1]) == "2 + 8 i reversed"
    for width in (51, 57, 64):
        image = torch.zeros(1, 3, 40, width)
        image[..., -8:] = 9
        change = (net(image) - net(torch.zeros_like(image))).abs().sum((0, 1, 2))
        assert int(change.argmax()) < len(change) / 2


_UNTOLD = [way for way in OTHERS if way not in (*_BACK, *_STRIDED)]


@pytest.mark.parametrize(
    ("way", "is_old"),
    [
        *(("rolled", True), ("turned, on top", True), ("picked", False)),
        *(pytest.param(way, is_old, marks=pytest.mark.slow) for way in _UNTOLD for is_old in (True, False)),
    ],
)
def test_cells_in_another_order_are_not_said_to_lie_in_order(way: str, *, is_old: bool) -> None:
    """One rule does not tell where they lie: the plan says so, and the signature has no centres along that axis."""
    ways = ("as it is", way) if is_old else (way, "as it is")
    new, old = map(Turned, ways)
    net = aa.adapt(new, like=old, inputs=torch.rand(2, 3, 40, 64))
    told = net.signature if is_old else net.plan.source
    assert "W" not in [one.axis for one in told.outputs["output"].centres]
    assert "not known to lie where the old ones do" in " ".join(str(net.plan).split())


def test_reversed_cells_that_were_flattened_are_refused() -> None:
    """They stand beside others on one axis."""
    with pytest.raises(aa.AdaptError, match="it lists cells from the last to the first, beside others on one axis"):
        aa.adapt(Turned("as it is"), like=Turned("flattened"), inputs=torch.rand(2, 3, 40, 64))


def test_verify_tells_a_map_that_is_not_turned() -> None:
    """An adapted module whose flip is lost is no longer what the contract says."""
    net = aa.adapt(Turned("as it is"), like=Turned("as it is"), inputs=torch.rand(2, 3, 40, 64))
    contract = aa.capture(Turned("left and right"), torch.rand(2, 3, 40, 64))
    assert "cells along W: expected pixels 0 + 4 i reversed, found pixels 0 + 4 i" in str(aa.verify(net, contract))


@pytest.mark.parametrize(
    "text",
    [
        "f32[B, 8, ceil(H/8), ceil(W/8)] centres 3.5 + 8 i reversed",
        "f32[B, 8, ceil(H/8), ceil(W/8)] centres 3.5 + 8 i along H, 3.5 + 8 i along W reversed depth 3",
    ],
)
def test_the_text_of_a_spec_holds_it(text: str) -> None:
    """It is read as it is written."""
    assert TensorSpec.parse(text).in_full == text


def test_a_calibration_reads_old_maps_turned_back() -> None:
    """The same network with another width in front is fitted to the reversed map as well as to the plain one."""
    images = [torch.rand(8, 3, 40, 64) for _ in range(3)]
    errors = []
    for way in ("as it is", "left and right"):
        contract = Turned(way).eval()
        new = nn.Sequential(*Turned("as it is").layers, nn.Conv2d(12, 24, 1)).eval()
        net = aa.adapt(new, like=contract, inputs=images[0]).eval()
        aa.calibrate(net, like=contract, data=images)
        errors.append(float((net(images[0]) - contract(images[0])).detach().abs().max()))
    assert max(errors) < 0.05
