"""Distilling: the old model teaches the new backbone and its adapters, or nothing is changed."""

import copy

import pytest
import torch
from calibration_models import Model, Pyramid, model_with, pictures, same, weights
from torch import nn
from torch.utils.data import DataLoader

import autoadapt as aa
from autoadapt.calibration import distilling
from autoadapt.calibration.courses import Course, Rates
from autoadapt.calibration.paired_runs import pair_of
from autoadapt.errors import CalibrationError

OTHERS = pictures(64, seed=5)


@pytest.fixture
def pair():
    old = Model((8, 6)).eval()
    return old, model_with(old, Pyramid((6, 5), seed=1))


def taught(pair, data=None, **options):
    old, model = pair
    chosen = {"steps": 64, "lr": 3e-3, "data": pictures(64).split(8)}
    return aa.distil(model, at="backbone", like=old, **chosen | options | ({} if data is None else {"data": data}))


@torch.no_grad()
def error(pair):
    old, model = pair
    return float((old(OTHERS).softmax(1) - model(OTHERS).softmax(1)).abs().mean())


def test_what_is_learned_is_written_and_nothing_else(pair):
    old, model = pair
    before, rest, buffers = error(pair), weights(old, model.head), [b.clone() for b in model.buffers()]
    backbone = [parameter.clone() for parameter in model.backbone.backbone.parameters()]
    made = taught(pair)
    assert made.written
    assert bool(made)
    assert made.after.loss < 0.5 * made.before.loss
    assert error(pair) < 0.6 * before
    assert same(rest, weights(old, model.head))
    assert same(buffers, list(model.buffers()))
    assert not same(backbone, list(model.backbone.backbone.parameters()))
    assert all(parameter.grad is None for parameter in (*old.parameters(), *model.parameters()))
    assert made.course[0] == (0, made.before.loss)
    assert made.held_out_images == 8
    names = [group["name"] for group in aa.param_groups(model, lr=1e-3)]
    assert [group["lr"] for group in aa.param_groups(model, lr=1e-3)] == [1e-3] * len(names)  # no longer fresh


def test_what_takes_no_gradient_stays(pair):
    _, model = pair
    model.backbone.backbone.requires_grad_(False)
    before, adapters = weights(model.backbone.backbone), weights(model.backbone.adapters)
    made = taught(pair)
    assert made.written
    assert made.parameters == sum(p.numel() for p in model.backbone.adapters.parameters())
    assert same(before, weights(model.backbone.backbone))
    assert not same(adapters, weights(model.backbone.adapters))
    model.requires_grad_(False)
    with pytest.raises(CalibrationError, match="nothing that could learn"):
        taught(pair)


def test_steps_that_make_it_worse_are_not_written(pair):
    before = weights(pair[1])
    aa.calibrate(pair[1], at="backbone", like=pair[0], data=pictures(64).split(8), images=64)
    before = weights(pair[1])
    made = taught(pair, lr=10.0, steps=8)
    assert not made
    assert made.best_step == 0
    assert "no better beyond chance" in made.verdict
    assert same(before, weights(pair[1]))


@pytest.mark.parametrize("steps", [1, 2, 10, 100, 400])
def test_rates_rise_for_a_tenth_of_the_steps_and_fall_to_nothing(steps):
    """At full rate from the first step on, calibrated digits lost up to fifty times what they began with."""
    shares = [Rates(steps, 1e-4, 1.0).share(step) for step in range(steps)]
    highest = shares.index(max(shares))
    assert highest == max(steps // 10 - 1, 0)
    assert shares[0] == pytest.approx(1 / (highest + 1))
    assert shares[: highest + 1] == sorted(shares[: highest + 1])
    assert shares[highest:] == sorted(shares[highest:], reverse=True)
    assert min(shares) > 0.0
    assert max(shares) > 0.9


def test_a_run_that_was_cut_goes_on_and_ends_where_one_in_one_piece_does(pair, tmp_path):

    other = copy.deepcopy(pair[1])
    data, held = pictures(64).split(8)[1:] * 4, pictures(8).split(8)
    options = {"held_out": held, "steps": 16, "state": tmp_path / "course.safetensors"}
    with pytest.raises(CalibrationError, match="left to learn from"):
        taught(pair, data=iter(data[:8]), **options)
    resumed = taught(pair, data=data[8:], **options)
    whole = taught((pair[0], other), data=data, **options | {"state": None})
    assert [step for step, _ in resumed.course] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert resumed.course == whole.course
    assert same(weights(pair[1]), weights(other))
    with pytest.raises(CalibrationError, match="is of another run"):
        taught(pair, data=data, **options | {"lr": 1e-4})


def test_images_that_are_held_out_are_not_learned_from(pair):
    images = pictures(32)
    loader = DataLoader(images, batch_size=4, shuffle=True, num_workers=1, timeout=50, worker_init_fn=torch.manual_seed)
    learned, judged = distilling._divided(loader, None)
    assert all((one.timeout, one.worker_init_fn) == (50, torch.manual_seed) for one in (learned, judged))
    assert {len(batch) for batch in learned} == {4}
    assert [len(batch) for batch in judged] == [4]
    seen = torch.cat([*learned, *judged])
    assert torch.equal(torch.cat(list(judged)), images[::8])
    assert sorted(seen.flatten(1).sum(1).tolist()) == sorted(images.flatten(1).sum(1).tolist())
    assert taught(pair, data=loader, steps=8).held_out_images == 4
    with pytest.raises(CalibrationError, match="held_out=other_batches"):
        taught(pair, data=iter(images.split(4)))
    with pytest.raises(CalibrationError, match="no images to judge on"):
        taught(pair, held_out=[])


def test_a_backbone_alone_learns_the_levels():
    old = Pyramid((8, 6)).eval()
    net = aa.adapt(Pyramid((6, 5), seed=1), like=old, inputs=torch.zeros(2, 3, 32, 32))
    made = aa.distil(net, like=old, data=pictures(64).split(8), steps=64, lr=3e-3)
    assert made.written
    assert made.loss_name == "error of levels"
    assert made.after.agreement is None
    assert made.after.loss < 0.7 * made.before.loss
    net.eval()
    errors = [((a - b).square().mean() / b.var()).item() for a, b in zip(net(OTHERS), old(OTHERS), strict=True)]
    assert abs(sum(errors) / 2 - made.after.loss) < 0.1


def test_the_mode_and_the_generators_of_the_caller_stay(pair):
    pair[1].train()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    taught(pair, steps=2)
    assert torch.equal(torch.rand(3), expected)
    assert pair[1].training


@pytest.mark.parametrize("given_head", [True, False])
def test_a_head_that_writes_into_the_levels_teaches_as_one_that_does_not(pair, given_head):
    courses = []
    for in_place in (True, False):
        old, model = copy.deepcopy(pair)
        for net in (old, model):
            net.head = nn.Sequential(Clipped(in_place), net.head)
        start = {"head": old.head, "like": old.backbone} if given_head else {"at": "backbone", "like": old}
        net = model.backbone if given_head else model
        made = aa.distil(net, data=pictures(64).split(8), steps=8, lr=3e-3, levels=10.0, **start)
        courses.append(made.course)
    assert courses[0] == courses[1]


class Clipped(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place

    def forward(self, levels):
        return [nn.functional.relu(level, inplace=self.in_place) for level in levels]


def test_features_that_the_start_explains_nothing_of_pull_at_no_answer():
    """Set from classifiers alone they are further from the old ones than their mean; taught them, answers got worse."""
    old, new = (vectors(channels, seed) for seed, channels in enumerate((24, 16)))
    head, own = nn.Linear(24, 10), nn.Linear(16, 10)
    with torch.no_grad():
        head.weight.mul_(10)
        images = pictures(500, seed=3)
        known = torch.cat([new(images), torch.ones(500, 1)], 1)
        weight, bias = torch.linalg.lstsq(known, head(old(images))).solution.split([16, 1])
        own.weight.copy_(weight.T)
        own.bias.copy_(bias[0])
    net = aa.adapt(new, like=old, inputs=OTHERS, project="always")
    aa.calibrate(net, like=old, head=head, own_head=own, data=None)
    with torch.no_grad():
        assert float((net(OTHERS) - old(OTHERS)).square().mean()) > float(old(OTHERS).var())
    given = {"like": old, "head": head, "data": pictures(128).split(16), "held_out": OTHERS.split(16), "lr": 1e-3}
    other = copy.deepcopy(net)
    made = aa.distil(net, steps=40, **given)
    assert made.written
    assert made.after.loss < 0.9 * made.before.loss
    assert aa.distil(other, steps=40, levels=0.0, **given).course == made.course


def vectors(channels, seed):
    torch.manual_seed(seed)
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(3, channels, 8, stride=8), nn.ReLU(), pool, nn.Flatten()).eval()


def test_calibrated_levels_count_for_what_they_explain_and_fresh_ones_in_full(pair):
    old, model = pair
    assert explained(pair) == {"0": 1.0, "1": 1.0}
    aa.calibrate(model, at="backbone", like=old, data=pictures(64).split(8), images=64)
    with torch.no_grad():
        levels = zip(model.backbone.eval()(OTHERS * 2), old.backbone(OTHERS * 2), strict=True)
        expected = [1 - float((new - old).square().mean() / old.var(correction=0)) for new, old in levels]
    assert list(explained(pair).values()) == pytest.approx(expected, rel=1e-4)
    assert all(0.05 < share < 0.95 for share in expected)


def explained(pair):
    course = Course(
        pair_of(pair[1], pair[0], "backbone", None, trains=True), None, None, Rates(1, 1e-3, 1.0), answers=True
    )
    course.sits(OTHERS.split(8))
    return course._explained
