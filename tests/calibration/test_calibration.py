"""Calibration fits the adapters and nothing else, on data that comes in any form."""

import random

import numpy as np
import pytest
import torch
from calibration_models import Mixed, Model, Pyramid, model_with, pictures, same, weights
from calibration_pairs import BATCHES, IMAGES, same_twice
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import calibrate
from autoadapt.calibration.projections import find_projections, resized
from autoadapt.errors import CalibrationError


def test_old_to_old_is_explained_wholly_and_answers_alike():
    old, model = same_twice()
    found = calibrate(model, at="backbone", like=old, data=BATCHES)
    assert all(fit.r2 > 1 - 1e-9 for fit in found.outputs)
    assert found.head.agreement == 1
    assert found.head.loss < 1e-9
    assert torch.allclose(model(IMAGES), old(IMAGES), atol=1e-5)


def test_inputs_of_other_names_than_the_old_module_has_tell_the_sizes_by_their_order():
    old, new = nn.Conv2d(3, 8, 4, stride=4), Pyramid((5,), container=lambda levels: levels[0])
    net = adapt(new, like="f32[B, 8, floor(H/4), floor(W/4)]", inputs={"x": torch.zeros(1, 3, 32, 32)})
    assert calibrate(net, like=old, data=[torch.rand(8, 3, 32, 32)]).images == 8


@pytest.mark.parametrize("mean", [0, 50])
def test_a_planted_map_between_random_backbones_is_recovered(mean):
    new = Pyramid((5, 6)).double().eval()
    for stage, width in zip(new.stages, (5, 6), strict=True):
        with torch.no_grad():
            stage[1].weight.copy_(torch.logspace(0, -5 if mean else -2, width))
        stage[2] = nn.Identity()
        stage.append(Shift(mean))
    old = Mixed(new, (7, 3)).double().eval()
    images = pictures(16, dtype=torch.float64)
    net = adapt(new, like=old, inputs=images[:2]).double()
    found = calibrate(net, like=old, data=images.split(4), solver="least_squares")
    for planted, projection in zip(old.maps, find_projections(net), strict=True):
        layer = net.get_submodule(projection.module)
        scale = planted.weight.abs().max()
        assert float((layer.weight - planted.weight).detach().abs().max() / scale.detach()) < 1e-6
    assert all(fit.r2 > 1 - 1e-9 for fit in found.outputs)


class Shift(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by


def test_only_the_adapters_change():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    model = model_with(old, new)
    model.train()
    before = weights(old, new, model.head, model.backbone.backbone)
    adapters = weights(model.backbone.adapters)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()

    def data():
        for batch in BATCHES:
            torch.rand(1), random.random(), np.random.rand()
            yield batch

    assert calibrate(model, at="backbone", like=old, data=data()).written
    assert same(before, weights(old, new, model.head, model.backbone.backbone))
    assert not same(adapters, weights(model.backbone.adapters))
    assert model.training
    assert model.backbone.training
    assert not old.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()


def test_the_old_backbone_the_old_model_and_a_head_all_mean_the_same():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    found = []
    for like in (old, old.backbone):
        model = model_with(old, new)
        found.append(calibrate(model, at="backbone", like=like, data=BATCHES))
    net = model_with(old, new).backbone
    found.append(calibrate(net, like=old.backbone, head=old.head, data=[batch * 2 for batch in BATCHES]))
    scores = [(one.solver, one.head.loss, one.head.agreement) for one in found]
    assert scores[0] == pytest.approx(scores[1])
    assert scores[0] == pytest.approx(scores[2])


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "data",
    [
        [IMAGES],
        (batch for batch in BATCHES),
        [(batch,) for batch in BATCHES],
        [{"images": batch} for batch in BATCHES],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES, torch.zeros(32)), batch_size=8),
    ],
    ids=["one batch", "generator", "tuples", "dicts", "labelled loader"],
)
def test_batches_come_as_the_model_takes_them(data):
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    model = model_with(old, new)
    found = calibrate(model, at="backbone", like=old, data=data)
    assert found.images == 32
    assert found.head.loss == pytest.approx(expected_loss(), rel=1e-6)


def expected_loss():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    return calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES).head.loss


def test_images_and_tokens_are_bounded():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    taken = []
    data = (taken.append(1) or batch for batch in BATCHES)
    found = calibrate(
        model_with(old, new), at="backbone", like=old, data=data, images=12, tokens_per_image=10, augment=0
    )
    assert found.images == 12
    assert [fit.tokens for fit in found.outputs] == [120, 120]
    assert len(taken) <= 3


def test_four_images_are_enough_to_hold_some_out():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    found = calibrate(model_with(old, new), at="backbone", like=old, data=IMAGES[:4].split(1))
    assert found.images == 4
    assert [images for images, _ in found.outputs[0].by_images] == [1, 2, 3]


class Doubling(nn.Module):
    """A backbone that writes into what it is given."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(x.mul_(2))


def test_backbones_that_write_into_their_input_see_the_same_images():
    old, new = Pyramid((4, 6)).eval(), Pyramid((3, 5), seed=1).eval()
    net = adapt(new, like=old, inputs=IMAGES[:2])
    plain = calibrate(net, like=old, data=[batch * 2 for batch in BATCHES]).outputs
    before = IMAGES.clone()
    net = adapt(Doubling(new), like=Doubling(old), inputs=IMAGES[:2].clone())
    doubled = calibrate(net, like=Doubling(old), data=BATCHES).outputs
    assert torch.equal(IMAGES, before)
    assert [fit.r2 for fit in doubled] == pytest.approx([fit.r2 for fit in plain])


@pytest.mark.parametrize("axes", [1, 2])
def test_shrinking_averages_and_skips_nothing(axes):
    spikes = torch.eye(16).reshape(16, 1, 16)
    spikes = spikes if axes == 1 else spikes[..., None, :].expand(16, 1, 16, 16)
    made = resized(spikes, (4,) * axes)
    assert made.shape[2:] == (4,) * axes
    assert bool((made.flatten(1).sum(1) > 0.1).all())
    assert torch.equal(resized(spikes, tuple(spikes.shape[2:])), spikes)


def test_resizing_keeps_cell_centres():
    ramp = torch.arange(16.0).expand(1, 1, 16)
    torch.testing.assert_close(resized(ramp, (4,))[0, 0, 1:3], torch.tensor([5.5, 9.5]))


def test_one_level_without_projection_is_named():
    old, new = Model((4, 6)).eval(), Pyramid((4, 5), seed=1)
    found = calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES)
    assert [fit.target for fit in found.outputs] == ["1"]
    assert '0: no projection to fit, since channels agree; adapt(..., project="always") adds one' in found.remarks


class Tokens(nn.Module):
    """One level as tokens `[B, H*W, C]`: the projection is linear, and a resize stands after it."""

    def __init__(self, width, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.patches = nn.Conv2d(3, width, 8, stride=8)

    def forward(self, x):
        return self.patches(x).flatten(2).transpose(1, 2)


class Up(nn.Module):
    """Levels of a finer grid than any of `Tokens`, smooth enough to be interpolated."""

    def __init__(self, tokens, width):
        super().__init__()
        torch.manual_seed(2)
        self.tokens = tokens
        self.map = nn.Linear(tokens.patches.out_channels, width)

    def forward(self, x):
        made = self.map(self.tokens(x)).transpose(1, 2).unflatten(2, (x.shape[2] // 8, x.shape[3] // 8))
        return nn.functional.interpolate(made, size=(x.shape[2] // 4, x.shape[3] // 4), mode="bilinear")


def test_a_projection_of_tokens_before_a_resize_is_fitted_on_its_own_grid():
    new = Tokens(5, seed=1).eval()
    old = Up(new, 7).eval()
    net = adapt(new, like=old, inputs=IMAGES[:2])
    steps = [type(step).__name__ for step in net.plan.routes[0].steps]
    assert steps[-1] == "Resample", steps
    found = calibrate(net, like=old, data=pictures(16, size=64).split(4))
    assert found.outputs[0].r2 > 0.9
    made, wanted = net(IMAGES).detach(), old(IMAGES).detach()
    assert float((made - wanted).square().mean() / wanted.var()) < 0.1


class Classed(nn.Module):
    """Tokens behind one that is their mean."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, x):
        made = self.tokens(x)
        made = made.flatten(2).transpose(1, 2) if made.dim() == 4 else made
        return torch.cat([made.mean(1, keepdim=True), made], 1)


def test_a_projection_of_tokens_before_they_go_to_another_grid_is_fitted_on_its_own():
    tokens = Tokens(5, seed=1).eval()
    net = adapt(Classed(tokens), like=Classed(Up(tokens, 7)).eval(), inputs=IMAGES[:2])
    assert [type(step).__name__ for step in net.plan.routes[0].steps] == ["Project", "ResizeTokens"]
    old = Classed(Up(tokens, 7)).eval()
    found = calibrate(net, like=old, data=pictures(16, size=64).split(4))
    assert found.outputs[0].r2 > 0.9
    made, wanted = net(IMAGES).detach(), old(IMAGES).detach()
    assert float((made - wanted).square().mean() / wanted.var()) < 0.1


def test_pooling_before_the_projection_is_part_of_the_chain():
    new = Pyramid((5,), seed=1).eval()
    old = nn.Sequential(Mixed(new, (7,)), First(), nn.AvgPool2d(4, ceil_mode=True, count_include_pad=False)).eval()
    net = adapt(new, like=old, inputs=IMAGES[:2])
    assert [type(step).__name__ for step in net.plan.routes[0].steps] == ["Pool", "Project"]
    calibrate(net, like=old, data=BATCHES)
    assert torch.allclose(net(IMAGES), old(IMAGES), atol=1e-4)


class First(nn.Module):
    def forward(self, levels):
        return levels[0]


def test_a_random_backbone_is_reported_as_explaining_little():
    old = Model((4, 6)).eval()
    noise = pictures(64, seed=5)
    new = Pyramid((3, 5), seed=1)
    for stage in new.stages:
        stage[0].weight.data.copy_(torch.randn(stage[0].weight.shape) * 30)
    found = calibrate(model_with(old, new), at="backbone", like=old, data=noise.split(16))
    little = [remark for remark in found.remarks if "explain little" in remark]
    assert found.outputs[-1].r2 < 0.5
    assert len(little) == sum(fit.r2 < 0.5 for fit in found.outputs) > 0


class Noise(nn.Module):
    """Features that have nothing to do with the input but their size."""

    def __init__(self):
        super().__init__()
        self.stage = nn.Conv2d(3, 5, 3, stride=4, padding=1)

    def forward(self, x):
        return torch.sin(1e4 * self.stage(x))


class Loud(nn.Module):
    """A head that is very sure of what it says."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.classes = nn.Linear(6, 5)

    def forward(self, level):
        return 30 * self.classes(level.mean((2, 3)))


def test_in_place_of_a_fit_that_is_no_use_the_mean_is_written_where_it_is_better_than_what_is_there():
    torch.manual_seed(0)
    old, new = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.Tanh()).eval(), Noise().eval()
    net = adapt(new, like=old, inputs=IMAGES[:2])
    with torch.no_grad():
        net.adapters[next(iter(dict(net.adapters.named_children())))].project.bias.fill_(5.0)
    options = {"like": old, "head": Loud(), "data": [pictures(16, size=16)], "solver": "least_squares", "augment": 0}
    found = calibrate(net, **options)
    assert not found.written
    assert found.verdict.startswith("set to the mean of the old features: the head's loss")
    with torch.no_grad():
        mean = old(pictures(16, size=16)).mean((0, 2, 3), keepdim=True)
        torch.testing.assert_close(net(IMAGES[:2]), mean.expand_as(net(IMAGES[:2])), rtol=0, atol=1e-5)
    before = weights(net)
    assert calibrate(net, **options).verdict.startswith("left as they were: ")  # it is no better than itself
    assert same(before, weights(net))


def test_what_does_not_beat_the_floors_is_not_written():
    old, new = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.Tanh()).eval(), Noise().eval()
    net = adapt(new, like=old, inputs=IMAGES[:2])
    before = weights(net)
    found = calibrate(net, like=old, data=pictures(8, size=16).split(4), solver="least_squares")
    assert not found.written
    assert "no better than" in found.verdict
    assert same(before, weights(net))
    with pytest.raises(CalibrationError, match="was not calibrated"):
        found.raise_if_failed()
