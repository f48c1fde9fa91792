"""Calibration of layers that have a map for each place, in front of heads that read all places at once."""

import pytest
import torch
from calibration_models import pictures
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import Recipe, calibrate
from autoadapt.calibration.judging import divergence


class Four(nn.Module):
    """Maps of 2 x 2 cells, of images of 16 x 16."""

    def __init__(self, channels, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, channels, 8, stride=8)

    def forward(self, x):
        if tuple(x.shape[2:]) != (16, 16):
            raise ValueError("images of 16 x 16")
        return self.conv(x).tanh()


class Planted(nn.Module):
    """Features of another backbone, mapped at each place by a weight of its own, or everywhere by the first."""

    def __init__(self, inner, channels, *, alike=False, noise=0.0):
        super().__init__()
        torch.manual_seed(5)
        self.inner = inner
        weight = torch.randn(2, 2, channels, inner.conv.out_channels)
        self.weight = nn.Parameter(weight[:1, :1].expand_as(weight).clone() if alike else weight)
        self.other = Four(channels, seed=8) if noise else None
        self.noise = noise

    def forward(self, x):
        made = torch.einsum("bchw,hwdc->bdhw", self.inner(x), self.weight)
        return made if self.other is None else made + self.noise * self.other(x)


@pytest.fixture
def head():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(6 * 4, 5))


def adapted(new, old, **options):
    return adapt(new, like=old, inputs=torch.zeros(2, 3, 16, 16), **options)


def loss(net, old, head):
    fresh = pictures(64, size=16, seed=9)
    with torch.no_grad():
        return float(divergence(head(net(fresh)), head(old(fresh)), 64)[0].mean())


def test_maps_planted_at_each_place_are_found_exactly(head):
    new = Four(4, seed=1)
    old = Planted(new, 6)
    net = adapted(new, old, project="places")
    found = calibrate(net, like=old, head=head, data=[pictures(64, size=16)], augment=0, solver=Recipe())
    assert [fit.target for fit in found.outputs] == [f"output at {place}" for place in range(4)]
    assert min(fit.r2 for fit in found.outputs) > 1 - 1e-6
    fresh = pictures(8, size=16, seed=9)
    torch.testing.assert_close(net(fresh), old(fresh), rtol=1e-4, atol=1e-4)
    one = adapted(new, old)
    calibrate(one, like=old, head=head, data=[pictures(64, size=16)], augment=0, solver=Recipe())
    assert loss(one, old, head) > 0.01 > 100 * loss(net, old, head)


def test_without_a_head_places_are_told_apart_too():
    new = Four(4, seed=1)
    old = Planted(new, 6)
    net = adapted(new, old, project="places")
    found = calibrate(net, like=old, data=[pictures(64, size=16)], augment=0)
    assert min(fit.r2 for fit in found.outputs) > 0.99


def test_where_the_places_are_alike_and_images_few_one_map_serves_all(head):
    new = Four(6, seed=1)
    old = Planted(new, 6, alike=True, noise=0.5)
    net = adapted(new, old, project="places")
    found = calibrate(net, like=old, head=head, data=[pictures(16, size=16)], augment=0)
    assert found.solver.endswith("the same at all places")
    weight = next(net.adapters.parameters()).reshape(4, 6, 6)
    assert all(torch.equal(weight[place], weight[0]) for place in range(4))


def test_steps_on_the_head_move_each_place_by_itself(head):
    new = Four(3, seed=1)
    old = Planted(Four(8, seed=2), 6)
    nets = [adapted(new, old, project="places") for _ in range(2)]
    data = [pictures(64, size=16)]
    calibrate(nets[0], like=old, head=head, data=data, augment=0, solver=Recipe(1.0, shared=True))
    found = calibrate(nets[1], like=old, head=head, data=data, augment=0, solver=Recipe(1.0, shared=True), refine=8)
    assert found.before_refining is not None
    weight = next(nets[1].adapters.parameters()).reshape(4, 6, 3)
    assert not torch.allclose(weight[0], weight[1])
    assert loss(nets[1], old, head) < loss(nets[0], old, head)
