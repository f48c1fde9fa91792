"""With many channels, where every decomposition is dear, calibration does less and finds as much."""

import pytest
import torch
from calibration_models import pictures
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import Recipe, calibrate
from autoadapt.calibration.choosing import descend
from autoadapt.calibration.held_out_maps import Fitting
from autoadapt.calibration.image_folds import Folds
from autoadapt.calibration.moments import Moments

WIDTH = 520
IMAGES = pictures(32)


class Wide(nn.Module):
    """One level of many channels that depend on each other; the last is a mixture of those before it."""

    def __init__(self, seed, width=WIDTH):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, 40, 8, stride=4), nn.Tanh(), nn.Conv2d(40, width, 1), nn.Tanh())

    def forward(self, x):
        return self.layers(x)


def head(level):
    return level.mean((2, 3))[:, :5] * 20


def calibrated(new, old, data=IMAGES, **options):
    net = adapt(new.eval(), like=old.eval(), inputs=IMAGES[:2], project="always")
    return calibrate(net, like=old, data=data.split(8), **options), net


@pytest.mark.sampled(1)
@pytest.mark.parametrize("judged", [True, False])
def test_old_to_old_is_explained_wholly(judged):
    old = Wide(0)
    found, net = calibrated(old, old, pictures(128), head=head if judged else None)
    assert found.outputs[0].r2 > 1 - 1e-9
    assert found.solver == "least squares"
    torch.testing.assert_close(net(IMAGES), old(IMAGES), rtol=0, atol=1e-4)


def test_only_one_fold_is_held_out_and_only_two_sets_of_moments_are_kept():
    found, _ = calibrated(Wide(1), Wide(0), augment=0)
    assert found.bytes == 2 * 8 * (2 * WIDTH**2 + 3 * WIDTH)
    assert [images for images, _ in found.outputs[0].by_images] == [24]
    assert len(found.outputs[0].eigenvalues) == WIDTH


def test_a_quarter_of_the_images_are_held_out_and_all_of_these_are_judged():
    found, _ = calibrated(Wide(1), Wide(0), pictures(128, size=16), head=head)
    assert abs(found.head_images - 32) <= 4  # a few are alike by chance, and follow one another
    assert found.head.loss < min(found.random.loss, found.mean_only.loss)


@pytest.mark.parametrize("recipe", [Recipe(10.0, anchored=True, restored=True), Recipe()])
def test_the_last_maps_are_those_of_all_folds_and_keep_no_sum_beside_them(recipe):
    folds = Folds.of_channels(WIDTH)
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randn(count, 2 * WIDTH, generator=generator).chunk(2, 1) for count in (600, 1800, 700)]
    parts = [[Moments.of(*both)] for both in tokens]
    fitting = Fitting([[parts[0][0], parts[1][0]]], folds, [[Moments.zeros(WIDTH, WIDTH), parts[2][0]]])
    (expected,) = fitting.maps([recipe])
    before = sum(part.bytes for (part,) in parts)
    (found,) = fitting.last_maps([recipe])
    torch.testing.assert_close(found.weight_CD, expected.weight_CD, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.bias_D, expected.bias_D, rtol=0, atol=1e-6)
    assert sum(part.bytes for (part,) in parts) == before // 3
    assert parts[0][0].count == 3100


def test_penalties_are_walked_along_and_not_all_tried():
    found, _ = calibrated(Wide(1), Wide(0), head=head)
    assert 3 <= len(found.trials) <= 6
    assert all("variance restored" in trial.solver or trial.solver == "least squares" for trial in found.trials)
    best = min(found.trials, key=lambda trial: trial.score)
    assert found.head.loss >= best.score  # the choice had flattered itself


def test_rotations_are_tried_where_tokens_are_few():
    few, _ = calibrated(Wide(1), Wide(0), head=head, tokens_per_image=10)
    assert any("procrustes" in trial.solver for trial in few.trials)
    assert not any(trial.solver == "least squares" for trial in few.trials)


def test_what_is_written_was_fitted_on_all_images():
    alone = Recipe(1.0, restored=True)
    (found, net), old = calibrated(Wide(1), Wide(0), solver=alone), Wide(0).eval()
    made, wanted = (t.detach().double().movedim(1, -1).flatten(0, -2) for t in (net(IMAGES), old(IMAGES)))
    torch.testing.assert_close(made.mean(0), wanted.mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(made.var(0), wanted.var(0), rtol=1e-3, atol=0)
    assert found.solver == str(alone)


@pytest.mark.parametrize("best", [0.01, 0.1, 1.0, 10.0, 100.0])
def test_the_walk_ends_at_the_best_penalty_wherever_that_is(best):
    path, asked = [Recipe(10.0**exponent) for exponent in range(-3, 3)], []

    def loss(recipe):
        asked.append(recipe)
        return abs(torch.tensor(recipe.penalty / best).log())

    assert descend(path, loss).penalty == pytest.approx(best)
    assert len(set(asked)) < len(path) or best < 0.1


def test_folds_count_images_as_they_hold_them():
    for folds in (Folds(), Folds(holds_one_out=True)):
        for images in (4, 7, 32):
            of_images = folds.of_images(range(images), {}, {})
            assert of_images == {number: folds.of_image(number) for number in range(images)}
            sizes = folds.sizes(of_images)
            assert sizes == [[*of_images.values()].count(fold) for fold in folds.numbers]
            assert min(sizes) > 0
