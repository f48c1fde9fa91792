"""What calibration chooses between, keeps when it is cut off, and reports."""

import copy
import json
from typing import get_args

import pytest
import torch
from calibration_models import Model, Pyramid, Reader, model_with, pictures, same, weights
from calibration_pairs import BATCHES, IMAGES, same_twice
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import Calibration, Recipe, calibrate
from autoadapt.calibration.choosing import Solver, most_cautious
from autoadapt.calibration.dealing import COME_OTHERWISE
from autoadapt.calibration.judging import Score, divergence
from autoadapt.errors import CalibrationError


def test_without_a_head_the_cosine_decides_and_named_families_go_by_cross_validation():
    old, new = Pyramid((4, 6)).eval(), Pyramid((3, 5), seed=1)
    reasons = {}
    for solver in ("auto", "ridge"):
        net = adapt(new, like=old, inputs=IMAGES[:2])
        reasons[solver] = calibrate(net, like=old, data=BATCHES, solver=solver).chosen_by
    assert reasons["auto"] == "held-out cosine, since no head was given"
    assert reasons["ridge"] == "generalised cross-validation, since no head was given"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("solver", [one for one in get_args(Solver) if one != "auto"])
def test_every_family_can_be_asked_for(solver):
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    found = calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES, solver=solver)
    words = {"restored": "variance restored", "anchored": "towards procrustes", "reduced_rank": "rank"}
    words["coloured"] = "covariance restored"
    assert words.get(solver, solver.replace("_", " ")) in found.solver


def test_covariances_of_many_channels_are_not_kept_and_that_is_said():
    old, new = nn.Conv2d(3, 520, 4, stride=4).eval(), nn.Conv2d(3, 4, 4, stride=4).eval()
    net = adapt(new, like=old, inputs=pictures(1, size=16))
    with pytest.raises(CalibrationError) as caught:
        calibrate(net, like=old, data=[pictures(8, size=16)], augment=0, solver="coloured")
    text = str(caught.value)
    assert "the covariance of so many channels is not kept" in text
    assert "expected  at most 512 channels\n  found     520" in text
    assert 'solver="anchored"' in text


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


def test_a_loss_of_the_caller_is_asked_image_by_image_so_that_its_spread_is_known():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    asked = []

    def loss(answer, expected):
        asked.append(len(answer))
        return (answer - expected).square().mean()

    calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES, loss=loss)
    assert set(asked) == {1}


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.sampled(1)
@pytest.mark.parametrize("size", [3, 4, 16, 32])
def test_a_run_that_was_cut_goes_on_with_batches_of_another_size(size, tmp_path):
    old, new, state = Model((4, 6)).eval(), Pyramid((3, 5), seed=1), tmp_path / "state.safetensors"
    whole, cut = model_with(old, new), model_with(old, new)
    cut.load_state_dict(whole.state_dict())
    calibrate(whole, at="backbone", like=old, data=BATCHES, augment=0)
    with pytest.raises(KeyboardInterrupt):
        calibrate(cut, at="backbone", like=old, data=interrupted_after(2), augment=0, state=state)
    found = calibrate(cut, at="backbone", like=old, data=torch.cat(BATCHES).split(size), augment=0, state=state)
    assert found.images == 32
    assert [fit.tokens for fit in found.outputs] == [32 * 256, 32 * 64]
    for left, right in zip(weights(whole), weights(cut), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_a_run_that_goes_on_with_more_images_counts_the_rest_of_a_batch(tmp_path):
    old, new, state = Model((4, 6)).eval(), Pyramid((3, 5), seed=1), tmp_path / "state.safetensors"
    net = model_with(old, new)
    assert calibrate(net, at="backbone", like=old, data=BATCHES, images=12, augment=0, state=state).images == 12
    assert calibrate(net, at="backbone", like=old, data=BATCHES, images=32, augment=0, state=state).images == 32


def test_what_was_counted_is_not_run_again_and_other_images_in_its_place_are_told(tmp_path):
    old, new, state = Model((4, 6)).eval(), Pyramid((3, 5), seed=1), tmp_path / "state.safetensors"
    net = model_with(old, new)
    with pytest.raises(KeyboardInterrupt):
        calibrate(net, at="backbone", like=old, data=interrupted_after(2), augment=0, state=state)
    seen = []
    with old.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        same = calibrate(net, at="backbone", like=old, data=BATCHES, augment=0, state=state)
    assert not any(torch.equal(one, batch) for one in seen for batch in BATCHES[:2] if one.shape == batch.shape)
    assert COME_OTHERWISE not in same.remarks
    state.unlink()
    with pytest.raises(KeyboardInterrupt):
        calibrate(net, at="backbone", like=old, data=interrupted_after(2), augment=0, state=state)
    other = calibrate(net, at="backbone", like=old, data=BATCHES[::-1], augment=0, state=state)
    assert COME_OTHERWISE in other.remarks


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


def test_memory_of_the_state_does_not_depend_on_the_number_of_images(monkeypatch):
    monkeypatch.setattr("autoadapt.calibration.calibrations.REPORTED", 64)
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    few, many = (
        calibrate(model_with(old, new), at="backbone", like=old, data=pictures(n).split(16), images=n).bytes
        for n in (64, 160)
    )
    assert few == many


def test_recipes_are_tried_on_few_images_and_figures_are_of_many():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    images = pictures(160)
    model = model_with(old, new)
    found = calibrate(model, at="backbone", like=old, data=images.split(16), images=160)
    assert found.head_images == 160
    others = pictures(512, seed=9)
    agrees = (model(others).argmax(1) == old(others).argmax(1)).float().mean().item()
    assert abs(found.head.agreement - agrees) < 3 * (agrees * (1 - agrees) / 160) ** 0.5


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
    with pytest.raises(CalibrationError, match=r"plot.txt is no picture(.|\n)*plot.svg"):
        found.plot(tmp_path / "plot.txt")


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


@pytest.mark.slow
def test_what_auto_takes_is_no_worse_on_others_than_any_closed_form_by_name():
    torch.manual_seed(3)
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=3)
    images, others = pictures(24, size=16, seed=3), pictures(256, size=16, seed=93)
    swapped, lost = model_with(old, new), {}
    for solver in get_args(Solver):
        model = copy.deepcopy(swapped)
        calibrate(model, at="backbone", like=old, data=images.split(8), solver=solver, augment=0)
        with torch.no_grad():
            lost[solver] = float(divergence(model(others), old(others), 256)[0].mean())
    assert lost["auto"] <= 1.001 * min(lost.values())
    assert max(lost.values()) > 1.2 * lost["auto"]
