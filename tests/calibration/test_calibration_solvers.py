"""Closed forms find what was planted, and say how good they are on tokens that they have not seen."""

from dataclasses import replace

import pytest
import torch

from autoadapt.calibration.moments import Moments
from autoadapt.calibration.solvers import AffineMap, Factored, HeldOut, Recipe, Spectrum, constant

INFINITE = float("inf")
FORMS = [
    Recipe(),
    Recipe(0.1),
    Recipe(0.1, restored=True),
    Recipe(0.1, anchored=True),
    Recipe(INFINITE, anchored=True, restored=True),
    Recipe(0.1, anchored=True, restored=True, coloured=True),
    Recipe(0.1, rank=2),
]


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def planted(source=12, target=7, count=4000, noise=0.0):
    x = random(count, source) * torch.logspace(0, -5, source, dtype=torch.float64) + 50
    weight = random(source, target, seed=1) / torch.logspace(0, -5, source, dtype=torch.float64)[:, None]
    y = (x - 50) @ weight + 3 + noise * random(count, target, seed=2)
    return x, y, weight


def test_least_squares_recovers_a_planted_map_where_the_float32_recipe_fails():
    x, y, weight = planted()
    found = Spectrum(Moments.of(x, y)).fit(Recipe())
    assert float(((found.weight_CD - weight) / weight.abs().max(1, keepdim=True)[0]).abs().max()) < 1e-6

    ones = torch.ones(len(x), 1)
    recipe = torch.linalg.pinv(torch.cat([x.float(), ones], 1)) @ y.float()
    error = torch.cat([x.float(), ones], 1) @ recipe - y.float()
    assert float(error.square().sum() / (y - y.mean(0)).square().sum()) > 0.1, "SN-Net's recipe loses small channels"


def test_ridge_solves_its_own_normal_equations():
    x, y, _ = planted(noise=0.5)
    moments = Moments.of(x, y)
    found = Spectrum(moments).fit(Recipe(0.3))
    scale = (moments.xx_CC.diagonal() / moments.count).sqrt()
    penalised = moments.xx_CC / moments.count + 0.3 * torch.diag(scale**2)
    direct = torch.linalg.solve(penalised / torch.outer(scale, scale), moments.xy_CD / moments.count / scale[:, None])
    torch.testing.assert_close(found.weight_CD, direct / scale[:, None], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.bias_D, moments.mean_y_D - moments.mean_x_C @ found.weight_CD)


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 100.0, INFINITE])
def test_a_map_by_cholesky_is_that_of_the_decomposition(penalty, anchored, restored):
    if penalty == INFINITE and not anchored:
        return
    x, y, _ = planted(noise=0.5)
    x[:, 3] = 50
    recipe = Recipe(penalty, anchored=anchored, restored=restored)
    left, right = Factored(Moments.of(x, y)).fit(recipe), Spectrum(Moments.of(x, y)).fit(recipe)
    torch.testing.assert_close(left.weight_CD, right.weight_CD, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(left.bias_D, right.bias_D, rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("anchored", [False, True])
def test_of_many_channels_single_precision_is_good_enough_where_a_penalty_bounds_the_condition(anchored):
    x, y, _ = planted(600, 5, count=900, noise=0.5)
    x = (x @ random(600, 600, seed=5) + 50) * torch.logspace(0, -5, 600, dtype=torch.float64)
    moments = Moments.of(x, y)
    recipe = Recipe(0.1, anchored=anchored, restored=True)
    left, right = Factored(moments).fit(recipe), Spectrum(moments).fit(recipe)
    made, wanted = (x @ each.weight_CD.double() + each.bias_D for each in (left, right))
    assert float((made - wanted).square().mean() / wanted.var(0).mean()) < 1e-8


def test_procrustes_recovers_a_planted_rotation_and_its_scale():
    x = random(3000, 6)
    rotation = torch.linalg.qr(random(6, 6, seed=3))[0]
    found = Spectrum(Moments.of(x, 2.5 * x @ rotation + 1)).fit(Recipe(INFINITE, anchored=True))
    torch.testing.assert_close(found.weight_CD, 2.5 * rotation, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", [(5, 9), (9, 5)])
def test_procrustes_has_one_scale_where_the_channels_differ_in_number(channels):
    source, target = channels
    x, y, _ = planted(source, target, noise=0.1)
    weight = Spectrum(Moments.of(x, y)).fit(Recipe(INFINITE, anchored=True)).weight_CD
    values = torch.linalg.svdvals(weight)
    torch.testing.assert_close(values, values[:1].expand_as(values), rtol=1e-6, atol=0)


def test_a_penalty_leads_from_least_squares_to_procrustes():
    x, y, _ = planted(6, 6, noise=1.0)
    spectrum = Spectrum(Moments.of(x, y))
    ends = [spectrum.fit(recipe).weight_CD for recipe in (Recipe(), Recipe(INFINITE, anchored=True))]
    near = [spectrum.fit(Recipe(penalty, anchored=True)).weight_CD for penalty in (1e-12, 1e12)]
    for end, one in zip(ends, near, strict=True):
        torch.testing.assert_close(one, end, rtol=1e-5, atol=1e-5)


def test_restoring_gives_each_channel_the_variance_it_had():
    x, y, _ = planted(noise=1.0)
    moments = Moments.of(x, y)
    made = x @ (found := Spectrum(moments).fit(Recipe(1.0, restored=True))).weight_CD + found.bias_D
    torch.testing.assert_close(made.var(0), y.var(0), rtol=1e-8, atol=0)
    assert float((x @ Spectrum(moments).fit(Recipe(1.0)).weight_CD).var(0).sum()) < 0.9 * float(y.var(0).sum())


@pytest.mark.parametrize("form", [Spectrum, Factored])
def test_colouring_gives_the_targets_the_covariance_they_had(form):
    x, y, _ = planted(noise=4.0)
    moments = Moments.of(x, y)
    recipe = Recipe(1.0, restored=True)
    plain, coloured = (x @ form(moments).fit(one).weight_CD for one in (recipe, replace(recipe, coloured=True)))
    torch.testing.assert_close(coloured.var(0), y.var(0), rtol=1e-8, atol=0)
    torch.testing.assert_close(torch.corrcoef(coloured.T), torch.corrcoef(y.T), rtol=0, atol=0.06)
    assert float((torch.corrcoef(plain.T) - torch.corrcoef(y.T)).abs().max()) > 0.15


def test_colouring_after_least_squares_has_the_least_error_of_all_maps_that_restore_the_covariance():
    x, y, _ = planted(target=4, noise=2.0)
    y = (y - y.mean(0)) / y.std(0)
    moments = Moments.of(x, y)
    found = Spectrum(moments).fit(Recipe(coloured=True))
    covariance = found.weight_CD.T @ moments.xx_CC @ found.weight_CD
    half = torch.linalg.cholesky(covariance)
    for seed in range(20):  # whatever turns in the whitened targets leaves the covariance as it is
        turn = torch.linalg.qr(torch.eye(4, dtype=torch.float64) + 0.2 * random(4, 4, seed=seed))[0]
        turn = turn * torch.sign(turn.diagonal())
        other = AffineMap.through_means(
            found.weight_CD @ torch.linalg.solve_triangular(half.T, turn @ half.T, upper=True), moments
        )
        torch.testing.assert_close(other.weight_CD.T @ moments.xx_CC @ other.weight_CD, covariance)
        errors = [float((x @ one.weight_CD + one.bias_D - y).square().sum()) for one in (found, other)]
        assert errors[0] < errors[1]


def test_a_channel_that_never_changes_keeps_colouring_finite():
    x, y, _ = planted(noise=1.0)
    y[:, 2], x[:, 3] = 4.0, 1.0
    found = Spectrum(Moments.of(x, y)).fit(Recipe(0.1, restored=True, coloured=True))
    assert torch.isfinite(found.weight_CD).all()
    torch.testing.assert_close(x @ found.weight_CD[:, 2] + found.bias_D[2], y[:, 2])


def test_reduced_rank_goes_through_so_many_channels():
    x, y, _ = planted(noise=0.1)
    weight = Spectrum(Moments.of(x, y)).fit(Recipe(0.01, rank=2)).weight_CD
    values = torch.linalg.svdvals(weight)
    assert int((values > 1e-9 * values[0]).sum()) == 2


def test_reduced_rank_keeps_what_varies_most():
    x = random(3000, 8)
    left, right = random(8, 2, seed=4), random(2, 6, seed=5)
    y = x @ left @ right + 0.01 * random(3000, 6, seed=6)
    moments = Moments.of(x, y)
    held = HeldOut.of(Spectrum(moments).fit(Recipe(rank=2)), moments.mean_y_D, moments)
    assert held.r2 > 0.999


@pytest.mark.parametrize("recipe", FORMS, ids=str)
def test_every_form_sends_mean_to_mean(recipe):
    x, y, _ = planted(noise=0.3)
    found = Spectrum(Moments.of(x, y)).fit(recipe)
    torch.testing.assert_close((x @ found.weight_CD + found.bias_D).mean(0), y.mean(0), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("recipe", FORMS, ids=str)
def test_held_out_error_from_moments_is_that_of_the_tokens(recipe):
    x, y, _ = planted(noise=0.7)
    fitted, left = (x[:3000], y[:3000]), (x[3000:], y[3000:])
    moments = Moments.of(*fitted)
    found = Spectrum(moments).fit(recipe)
    made = left[0] @ found.weight_CD + found.bias_D
    held = HeldOut.of(found, moments.mean_y_D, Moments.of(*left))
    expected = 1 - float((made - left[1]).square().sum() / (left[1] - fitted[1].mean(0)).square().sum())
    centred = made - made.mean(0), left[1] - left[1].mean(0)
    cosine = float((centred[0] * centred[1]).sum() / centred[0].norm() / centred[1].norm())
    assert held.r2 == pytest.approx(expected, abs=1e-8)
    assert held.cosine == pytest.approx(cosine, abs=1e-8)
    assert held.variance_ratio == pytest.approx(float(made.var(0).sum() / left[1].var(0).sum()), rel=1e-8)


def test_the_mean_alone_explains_nothing():
    x, y, _ = planted()
    moments = Moments.of(x, y)
    assert HeldOut.of(constant(moments.source, moments.mean_y_D), moments.mean_y_D, moments).r2 == 0


def test_cross_validation_tells_the_error_on_new_tokens():
    x, y, _ = planted(20, 4, count=4000, noise=2.0)
    some = Spectrum(Moments.of(x[:60], y[:60]))
    for penalty in (0.01, 0.1, 1.0):
        fitted = some.fit(Recipe(penalty))
        error = float((x[60:] @ fitted.weight_CD + fitted.bias_D - y[60:]).square().sum(1).mean())
        assert some.cross_validation(Recipe(penalty)) == pytest.approx(error, rel=0.35)


def test_constant_channels_and_more_channels_than_tokens_give_finite_maps():
    x, y, _ = planted(30, 5, count=12)
    x[:, 3] = 50
    for recipe in FORMS:
        found = Spectrum(Moments.of(x, y)).fit(recipe)
        assert bool(torch.isfinite(found.weight_CD).all()), str(recipe)
        assert float(found.weight_CD[3].abs().max()) < 1e-6 or recipe.anchored


def test_recipes_read_like_what_they_do():
    assert [str(recipe) for recipe in FORMS] == [
        "least squares",
        "ridge 0.1",
        "ridge 0.1, variance restored",
        "ridge 0.1 towards procrustes",
        "procrustes, variance restored",
        "ridge 0.1 towards procrustes, covariance restored",
        "ridge 0.1, rank 2",
    ]
