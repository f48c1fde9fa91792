"""Steps on the head after the closed form: over which images, how many, and what they do not depend on."""

import copy

import pytest
import torch
from calibration_models import Model, Pyramid, model_with, pictures
from calibration_pairs import BATCHES, same_twice
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import Recipe, calibrate, refining, samples
from autoadapt.calibration.image_folds import Folds
from autoadapt.calibration.judging import TOGETHER, Judge


@pytest.fixture
def minibatches(monkeypatch):
    """The numbers of images of every step that is taken."""
    seen = []
    taken = Judge.gradients

    def gradients(self, maps, numbers):
        seen.append(list(numbers))
        return taken(self, maps, numbers)

    monkeypatch.setattr(Judge, "gradients", gradients)
    return seen


def test_steps_go_over_minibatches_of_all_images_also_of_more_than_recipes_are_tried_on(minibatches):
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=2)
    images = pictures(96, size=16)
    found = calibrate(
        model_with(old, new), at="backbone", like=old, data=images.split(32), refine=3, solver=Recipe(1.0)
    )
    assert found.written
    assert found.head_images == 96
    assert max(map(len, minibatches)) <= TOGETHER
    first_fold, last = minibatches[:3], minibatches[-3:]
    assert sorted(n for numbers in first_fold for n in numbers) == [n for n in range(96) if Folds().of_image(n)]
    assert sorted(n for numbers in last for n in numbers) == list(range(96))


def test_images_beyond_the_memory_are_not_gone_over_and_a_remark_says_so(monkeypatch):
    monkeypatch.setattr(samples, "BYTES", 400_000)
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    found = calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES, refine=8, solver=Recipe(1.0))
    (said,) = [remark for remark in found.remarks if "went over" in remark]
    assert said == f"steps on the head went over {found.head_images} of 32 images, which fit into 128 MiB"
    assert found.head_images < 32


def test_auto_gives_up_scales_and_whole_maps_after_one_fold_that_gains_nothing(minibatches):
    old, model = same_twice()
    found = calibrate(model, at="backbone", like=old, data=BATCHES, refine="auto")
    assert len(minibatches) == 2 * 64
    assert found.before_refining is None


@pytest.mark.slow
def test_auto_goes_on_where_the_head_still_gains():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    plain, further = model_with(old, new), model_with(old, new)
    data = pictures(64, size=16).split(32)
    calibrate(plain, at="backbone", like=old, data=data)
    found = calibrate(further, at="backbone", like=old, data=data, refine="auto")
    assert int(found.solver.rpartition(" steps on the head")[0].rpartition(" ")[2]) > 64
    fresh = pictures(64, size=16, seed=9)
    expected = old(fresh).softmax(1)
    errors = [float((model(fresh).softmax(1) - expected).detach().square().mean()) for model in (plain, further)]
    assert errors[1] < 0.9 * errors[0]


def test_scales_of_channels_leave_their_means_and_mix_nothing_anew(monkeypatch):
    monkeypatch.setattr(refining, "RATE", 0.0)  # whole maps stay where they are
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=2)
    images = pictures(12, size=16)
    models = []
    for refine in (0, 16):
        models.append(model_with(old, new))
        options = {"solver": Recipe(1.0), "augment": 0, "refine": refine}
        found = calibrate(models[-1], at="backbone", like=old, data=[images], **options)
    assert found.solver == "ridge 1, 16 steps on the head, scales of channels alone"
    assert found.head.loss < 0.9 * found.before_refining.loss
    closed, scaled = (model.backbone for model in models)
    for one, other in zip(closed.adapters.parameters(), scaled.adapters.parameters(), strict=True):
        if one.dim() > 1:
            ratio = (other / one).detach().flatten(1)
            torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=0)
    assert float((ratio - 1).abs().min()) > 0.01
    for one, other in zip(closed(2 * images), scaled(2 * images), strict=True):
        torch.testing.assert_close(one.mean((0, 2, 3)), other.mean((0, 2, 3)), rtol=0, atol=1e-4)


class Scaled(nn.Module):
    """A backbone whose channels have other scales, and a mean far from zero."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        levels = self.backbone(x)
        return [level * (10.0 ** torch.arange(-2, level.shape[1] - 2))[:, None, None] + 3 for level in levels]


def test_a_step_means_the_same_whatever_the_scales_of_the_channels_are():
    old, new = Model((4, 6)).eval().double(), Pyramid((3, 5), seed=1).eval().double()
    data = pictures(16, dtype=torch.float64).split(16)
    answers = []
    for backbone in (new, Scaled(copy.deepcopy(new))):
        model = copy.deepcopy(old)
        model.backbone = adapt(backbone, like=old.backbone, inputs=data[0][:2], project="always")
        found = calibrate(model, at="backbone", like=old, data=data, refine=6, solver="ridge")
        assert found.before_refining is not None
        answers.append(model(data[0]).detach())
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-4)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("refine", ["auto", 4])
def test_where_head_or_loss_pass_no_gradient_the_closed_form_is_kept_and_a_remark_says_so(refine):
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    options = {"data": BATCHES, "refine": refine, "solver": Recipe(1.0), "augment": 0}
    found = calibrate(
        model_with(old, new), at="backbone", like=old, loss=lambda f, e: (f - e).square().mean().detach(), **options
    )
    head = torch.no_grad()(old.head.forward)
    others = calibrate(model_with(old, new).backbone, like=old.backbone, head=head, **options)
    for one in (found, others):
        assert one.before_refining is None
        assert "refine needs a head and a loss that pass gradients; nothing was refined" in one.remarks


def test_modules_that_a_function_names_run_as_copies_in_eval_mode():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    reader = nn.Sequential(old.head, nn.BatchNorm1d(5), nn.Dropout(0.5)).train()
    net, options = model_with(old, new).backbone, {"like": old.backbone, "solver": Recipe(1.0), "augment": 0}
    before = [tensor.clone() for tensor in reader.state_dict().values()]
    heads = [reader, lambda levels: reader(levels), lambda levels, own=reader: own(levels)]
    losses = [calibrate(copy.deepcopy(net), head=head, data=BATCHES, refine=2, **options).head.loss for head in heads]
    assert losses == pytest.approx([losses[0]] * 3)
    assert reader.training
    assert all(torch.equal(*pair) for pair in zip(before, reader.state_dict().values(), strict=True))


class Strided(nn.Sequential):
    """Two convolutions; what it shows of a picture depends on its seed."""

    def __init__(self, channels, seed, *last):
        torch.manual_seed(seed)
        super().__init__(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, channels, 3, 2, 1), *last)


@pytest.mark.slow
def test_the_figures_of_features_are_those_of_what_is_written_after_steps_as_well():
    old, new, fresh = Strided(48, 1, nn.ReLU()).eval(), Strided(24, 2).eval(), pictures(256, size=32, seed=99)
    with torch.no_grad():
        wanted = old(fresh)
        pooled = wanted.amax((2, 3))
    torch.manual_seed(9)
    linear = nn.Linear(48, 6)

    def head(features):
        return linear((features.amax((2, 3)) - pooled.mean(0)) / pooled.std(0)) * 2

    net = adapt(new, like=old, inputs=fresh[:2]).eval()
    batches = pictures(128, size=32, seed=5).split(32)
    found = calibrate(net, like=old, data=batches, head=head, augment=0, refine=64, solver="least_squares")
    assert found.before_refining is not None
    (fit,) = found.outputs
    with torch.no_grad():
        made = net(fresh)
    variance = ((wanted - wanted.mean((0, 2, 3), keepdim=True)) ** 2).sum()
    assert fit.r2 == pytest.approx(1 - float(((made - wanted) ** 2).sum() / variance), abs=0.05)
    real = float(((made - made.mean((0, 2, 3), keepdim=True)) ** 2).sum() / variance)
    assert fit.variance_ratio == pytest.approx(real, abs=0.05)
    assert fit.by_images[-1][1] > fit.r2 + 0.02  # of the closed form, which has the smallest error
