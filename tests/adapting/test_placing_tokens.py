"""Cells among other tokens lie where the old ones lay, as cells of maps do, and the other tokens are handed on."""

import pytest
import torch
from ramps import averaging, ramp
from torch import nn

import autoadapt as aa
from autoadapt.calibration.projections import _undone
from autoadapt.contracts.capturing.centres import CentresFollowed


class Behind(nn.Module):
    """The cells of a map, row by row, behind tokens that hold 9, and before others that hold 7."""

    def __init__(self, maps, leading, *, trailing=0, only=None):
        super().__init__()
        self.maps, self.leading, self.trailing, self.only = maps, leading, trailing, only

    def forward(self, x):
        if self.only and set(x.shape[2:]) != {self.only}:
            raise ValueError("images of another size")
        cells = self.maps(x).flatten(2).transpose(1, 2)
        shapes = [(x.shape[0], count, cells.shape[2]) for count in (self.leading, self.trailing)]
        before, behind = torch.full(shapes[0], 9.0), torch.full(shapes[1], 7.0)
        return torch.cat([before, cells, behind], 1)


def stack(spatial, kernel, stride, padding=0):
    return averaging(spatial, kernel, stride=stride, padding=padding)


def behind_padding(kernel, stride):
    return nn.Sequential(nn.ConstantPad2d((0, kernel - stride) * 2, 0.0), stack(2, kernel, stride))


PAIRS = {
    "patches, smaller patches": (stack(2, 16, 16), stack(2, 14, 14)),
    "patches, larger patches": (stack(2, 8, 8), stack(2, 14, 14)),
    "as many at other places": (behind_padding(24, 8), stack(2, 8, 8)),
    "halves, rounded otherwise": (stack(2, 16, 16), stack(2, 8, 8)),
    "only rows lie elsewhere": (stack(2, (16, 16), (16, 16)), stack(2, (14, 8), (14, 8))),
    "clips": (stack(3, 8, 8), stack(3, 7, 7)),
}
SIZES = {2: (112, 143), 3: (56, 61)}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("pair", PAIRS)
def test_cells_behind_leading_tokens_lie_where_those_of_maps_do(pair):
    old, new = PAIRS[pair]
    spatial = next(one.weight.dim() - 2 for one in (new, *new.modules()) if hasattr(one, "weight"))
    inputs = ramp(spatial, SIZES[spatial][0])
    net, bare = (aa.adapt(Behind(new, n), like=Behind(old, n), inputs=inputs) for n in (2, 0))
    step = net.signature.outputs.leaves[0].centres[0].step
    for size in SIZES[spatial]:
        x = ramp(spatial, size)
        found = net(x)
        assert torch.equal(found[:, :2], torch.full((1, 2, 2), 9.0))
        torch.testing.assert_close(found[:, 2:], bare(x))
        cells, wanted = found[0, 2:, 0], old(x)[0, 0].flatten()
        whole = old(torch.ones_like(x))[0, 0].flatten() > 1 - 1e-5  # where no padding is averaged
        inner = whole & (wanted > 2 * step) & (wanted < size - 2 * step)
        assert inner.any()
        assert float((cells - wanted)[inner].abs().max()) < step / 16  # a filter of that width is not quite linear
    assert "resample tokens" in str(net.plan), net.plan
    verified = {check.name: check for check in net.verify().checks}["centres"]
    assert verified.outcome == "passed", verified.faults


@torch.no_grad()
def test_tokens_of_a_resized_image_are_stretched_and_then_read_at_the_old_centres():
    old, new, x = behind_padding(32, 8), stack(2, 8, 8), ramp(2, 96)
    net, bare = (aa.adapt(Behind(new, n, only=96), like=Behind(old, n), inputs=x) for n in (2, 0))
    assert [str(step).split(" to ")[0] for step in net.plan.routes[0].steps] == ["resize tokens", "resample tokens"]
    assert "resized before" in net.plan.routes[0].remark
    for size in (96, 121):
        torch.testing.assert_close(net(ramp(2, size))[:, 2:], bare(ramp(2, size)))


def test_what_a_calibration_expects_before_resampled_tokens_lies_at_their_own_centres():
    old, new = PAIRS["patches, smaller patches"]
    net = aa.adapt(Behind(new, 2), like=Behind(old, 2), inputs=ramp(2, 112))
    (route,) = net.plan.routes
    with torch.no_grad():
        undone = _undone(route.steps[0], Behind(old, 2)(ramp(2, 143)), route.specs[0], {"B": 1, "H": 143, "W": 143}, "")
        expected = Behind(new, 2)(ramp(2, 143))
    assert torch.equal(undone[:, :2], expected[:, :2])
    inner = (expected[..., 0] > 16) & (expected[..., 0] < 112)
    torch.testing.assert_close(undone[inner], expected[inner])


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("leading", "trailing"), [(0, 1), (1, 4), (2, 7)])
@pytest.mark.parametrize("pair", ["patches, smaller patches", "halves, rounded otherwise", "clips"])
def test_tokens_behind_the_cells_are_handed_on_too(pair, leading, trailing):
    """They were refused; as many as there are rows hid where the cells lie."""
    old, new = PAIRS[pair]
    spatial = 3 if pair == "clips" else 2
    inputs = ramp(spatial, SIZES[spatial][0])
    net = aa.adapt(Behind(new, leading, trailing=trailing), like=Behind(old, leading, trailing=trailing), inputs=inputs)
    bare = aa.adapt(Behind(new, 0), like=Behind(old, 0), inputs=inputs)
    for size in SIZES[spatial]:
        found = net(ramp(spatial, size))
        count = found.shape[1] - trailing
        assert torch.equal(found[:, :leading], torch.full((1, leading, found.shape[2]), 9.0))
        torch.testing.assert_close(found[:, leading:count], bare(ramp(spatial, size)))
        assert torch.equal(found[:, count:], torch.full((1, trailing, found.shape[2]), 7.0))
    (route,) = net.plan.routes
    assert route.steps[0].label.endswith(f"last {trailing} as they are")
    net.verify().raise_if_failed()
    assert aa.Plan.model_validate_json(net.plan.model_dump_json()) == net.plan


def test_what_a_calibration_expects_before_tokens_behind_the_cells_is_in_its_place():
    old, new = PAIRS["patches, smaller patches"]
    net = aa.adapt(Behind(new, 1, trailing=4), like=Behind(old, 1, trailing=4), inputs=ramp(2, 112))
    (route,) = net.plan.routes
    with torch.no_grad():
        sizes = {"B": 1, "H": 143, "W": 143}
        undone = _undone(route.steps[0], Behind(old, 1, trailing=4)(ramp(2, 143)), route.specs[0], sizes, "")
        expected = Behind(new, 1, trailing=4)(ramp(2, 143))
    assert torch.equal(undone[:, [0, -4, -3, -2, -1]], expected[:, [0, -4, -3, -2, -1]])
    inner = (expected[..., 0] > 16) & (expected[..., 0] < 112)
    torch.testing.assert_close(undone[inner], expected[inner])


@pytest.mark.parametrize("trailing", [3, 4, 5])
def test_as_many_registers_as_rows_do_not_hide_where_cells_lie(trailing):
    module = Behind(stack(2, 16, 16), 1, trailing=trailing)
    x = torch.zeros(1, 2, 64, 80)
    with CentresFollowed([(x, ("B", "C", "H", "W"))]) as followed, torch.no_grad():
        grid = followed.grid(module(x))
    assert {name: (cells.first, cells.step) for name, cells in grid.items()} == {"H": (7.5, 16), "W": (7.5, 16)}
