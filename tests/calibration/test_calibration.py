"""Calibration fits the adapters and nothing else, on data that comes in any form."""

import copy
import json
import random

import numpy as np
import pytest
import torch
from calibration_models import Mixed, Model, Pyramid, Reader, model_with, pictures, same, weights
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import Calibration, Recipe, calibrate
from autoadapt.calibration.choosing import most_cautious
from autoadapt.calibration.judging import Score, divergence
from autoadapt.calibration.projections import find_projections, resized
from autoadapt.errors import CalibrationError

IMAGES = pictures(32)
BATCHES = IMAGES.split(8)


def same_twice():
    old = Model((4, 6)).eval()
    return old, model_with(old, old.backbone, project="always")


def test_old_to_old_is_explained_wholly_and_answers_alike():
    old, model = same_twice()
    found = calibrate(model, at="backbone", like=old, data=BATCHES)
    assert all(fit.r2 > 1 - 1e-9 for fit in found.outputs)
    assert found.head.agreement == 1
    assert found.head.loss < 1e-9
    assert torch.allclose(model(IMAGES), old(IMAGES), atol=1e-5)


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
    found = calibrate(model_with(old, new), at="backbone", like=old, data=data, images=12, tokens_per_image=10)
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


def test_without_a_head_the_cosine_decides_and_named_families_go_by_cross_validation():
    old, new = Pyramid((4, 6)).eval(), Pyramid((3, 5), seed=1)
    reasons = {}
    for solver in ("auto", "ridge"):
        net = adapt(new, like=old, inputs=IMAGES[:2])
        reasons[solver] = calibrate(net, like=old, data=BATCHES, solver=solver).chosen_by
    assert reasons["auto"] == "held-out cosine, since no head was given"
    assert reasons["ridge"] == "generalised cross-validation, since no head was given"


@pytest.mark.parametrize("solver", ["least_squares", "ridge", "restored", "procrustes", "anchored", "reduced_rank"])
def test_every_family_can_be_asked_for(solver):
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    found = calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES, solver=solver)
    words = {"restored": "variance restored", "anchored": "towards procrustes", "reduced_rank": "rank"}
    assert words.get(solver, solver.replace("_", " ")) in found.solver


def test_one_recipe_can_be_asked_for():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    found = calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES, solver=Recipe(0.05))
    assert (found.solver, found.chosen_by) == ("ridge 0.05", "as asked for")


def test_auto_is_no_worse_than_any_trial_beyond_chance():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    found = calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES)
    assert found.head.loss < 1.2 * min(trial.score for trial in found.trials)
    assert found.head.loss < min(found.random.loss, found.mean_only.loss)


def test_a_loss_of_the_caller_takes_the_place_of_the_divergence():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    asked = []

    def loss(answer, expected):
        asked.append(answer.shape)
        return (answer - expected).square().mean()

    found = calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES, loss=loss)
    assert asked
    assert found.head.agreement is None
    assert found.head.loss < found.mean_only.loss


def test_refining_is_kept_only_where_held_out_images_gain():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    plain, refined = (model_with(old, new) for _ in range(2))
    calibrate(plain, at="backbone", like=old, data=BATCHES)
    found = calibrate(refined, at="backbone", like=old, data=BATCHES, refine=30)
    assert found.before_refining is not None
    assert found.head.loss < found.before_refining.loss
    assert int(found.solver.rpartition(", ")[2].split()[0]) in (1, 2, 4, 8, 16, 30)
    fresh = pictures(64, seed=9)
    losses = [float(divergence(model(fresh), old(fresh), 64)[0].detach().mean()) for model in (plain, refined)]
    assert losses[1] < losses[0]
    assert all(p.grad is None for model in (old, refined) for p in model.parameters())


def test_heads_are_run_as_copies_in_eval_mode_and_get_no_gradients():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    head = nn.Sequential(Reader((4, 6)), nn.Dropout(0.5)).train()
    net = model_with(old, new).backbone
    options = {"like": old.backbone, "data": BATCHES, "refine": 3}
    scores = [calibrate(copy.deepcopy(net), head=one, **options).head.loss for one in (head, head, head.forward)]
    assert scores == pytest.approx([scores[0]] * 3)
    assert head.training
    calibrate(net, head=lambda levels: old.head(levels), **options)
    assert all(p.grad is None for module in (head, old.head) for p in module.parameters())


def test_within_a_standard_error_the_most_cautious_recipe_is_taken():
    best, near, far = (Score(losses, (1.0,) * 4) for losses in ((1, 2, 3, 4), (1.5, 1.6, 3.3, 4), (3, 4, 5, 6)))
    plain, mild, strong = (
        Recipe(0.1),
        Recipe(0.1, anchored=True, restored=True),
        Recipe(9, anchored=True, restored=True),
    )
    assert most_cautious({plain: best, mild: near, strong: far}, plain) == mild
    assert most_cautious({plain: best, mild: near, strong: near}, plain) == strong
    assert most_cautious({plain: best, mild: far, strong: far}, plain) == plain


def test_refining_that_does_not_help_is_not_kept():
    old, model = same_twice()
    found = calibrate(model, at="backbone", like=old, data=BATCHES, refine=2)
    assert found.before_refining is None
    assert any("not kept" in remark for remark in found.remarks)


def test_a_run_that_was_cut_goes_on_where_it_stopped(tmp_path):
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    whole, cut = model_with(old, new), model_with(old, new)
    cut.load_state_dict(whole.state_dict())
    calibrate(whole, at="backbone", like=old, data=BATCHES)
    state = tmp_path / "state.safetensors"

    before = weights(cut)
    with pytest.raises(KeyboardInterrupt):
        calibrate(cut, at="backbone", like=old, data=interrupted_after(2), state=state)
    assert same(before, weights(cut))
    ran = []
    new_run = cut.backbone.backbone.register_forward_pre_hook(lambda *_: ran.append(1))
    found = calibrate(cut, at="backbone", like=old, data=BATCHES, state=state)
    new_run.remove()
    assert found.images == 32
    for left, right in zip(weights(whole), weights(cut), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-8)


def test_a_run_that_was_cut_inside_an_update_keeps_the_state_before_it(tmp_path):
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        calibrate(model_with(old, new), at="backbone", like=old, data=interrupted_after(2), state=state)
    written = state.read_bytes()
    net = model_with(old, new)
    with pytest.raises(KeyboardInterrupt), InterruptedSums():
        calibrate(net, at="backbone", like=old, data=BATCHES, state=state)
    assert state.read_bytes() == written
    found = calibrate(net, at="backbone", like=old, data=BATCHES, state=state)
    assert found.images == 32
    assert [fit.tokens for fit in found.outputs] == [32 * 256, 32 * 64]


def interrupted_after(count):
    yield from BATCHES[:count]
    raise KeyboardInterrupt


class InterruptedSums(torch.overrides.TorchFunctionMode):
    """Ctrl-C between the two products of an update."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function is torch.Tensor.addmm_:
            raise KeyboardInterrupt
        return made


def test_the_state_of_another_run_is_refused(tmp_path):
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    state = tmp_path / "state.safetensors"
    calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES, state=state)
    with pytest.raises(CalibrationError, match="is of another run"):
        calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES, state=state, seed=1)
    state.write_bytes(b"nothing")
    with pytest.raises(CalibrationError, match="holds no state"):
        calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES, state=state)


def test_memory_of_the_state_does_not_depend_on_the_number_of_images():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    few, many = (
        calibrate(model_with(old, new), at="backbone", like=old, data=pictures(n).split(16), images=n).bytes
        for n in (64, 160)
    )
    assert few == many


def test_the_result_is_a_table_and_an_artefact_and_a_plot(tmp_path):
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    found = calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES)
    text = str(found)
    assert max(map(len, text.splitlines())) <= 80
    for part in ("32 unlabelled images", "random adapter", "mean only", "calibrated", "3->4", "written"):
        assert part in text
    assert Calibration.model_validate_json(found.model_dump_json()) == found
    assert json.loads(found.model_dump_json())["schema_version"] == 1
    assert [images for images, _ in found.outputs[0].by_images] == [8, 16, 24]
    found.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_dropout_and_batch_statistics_of_a_training_model_play_no_part():
    old, new = Model((4, 6)), Pyramid((3, 5), seed=1)
    old.head = nn.Sequential(old.head, nn.Dropout(0.5))
    model = Model((4, 6))
    model.head = old.head
    model.backbone = adapt(new, like=old.backbone, inputs=torch.zeros(2, 3, 32, 32))
    old.train()
    before = weights(old, model.backbone.backbone)
    scores = [calibrate(model.train(), at="backbone", like=old, data=BATCHES).head.loss for _ in range(2)]
    assert scores[0] == pytest.approx(scores[1])
    assert same(before, weights(old, model.backbone.backbone))


def test_divergence_reads_logits_of_every_form():
    logits = torch.randn(4, 3)
    grids, tokens = logits[:, :, None, None].expand(4, 3, 2, 2), logits[:, None].expand(4, 6, 3)
    other = torch.randn(4, 3)
    forms = [
        (other, logits),
        (other[:, :, None, None].expand(4, 3, 2, 2), grids),
        (other[:, None].expand(4, 6, 3), tokens),
        ({"a": other}, {"a": logits}),
    ]
    expected = nn.functional.kl_div(
        other.double().log_softmax(1), logits.double().log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    for found, wanted in forms:
        torch.testing.assert_close(divergence(found, wanted, 4)[0], expected)
    loss, agreement = divergence(torch.tensor([[3.0]]), torch.tensor([[-3.0]]), 1)
    assert loss > 1
    assert agreement == 0
