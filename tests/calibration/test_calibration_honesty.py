"""Figures come from images that did not choose, near copies count once, and what chance may give is not written."""

import math
import random
from statistics import fmean

import pytest
import torch
from calibration_models import pictures, same, weights
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import calibrate
from autoadapt.calibration.honesty import Gain, drawn_on, gain_over, honest_after, on_others, standard_errors
from autoadapt.calibration.image_folds import Folds
from autoadapt.calibration.judging import Score, divergence
from autoadapt.calibration.near_copies import count_different, descriptors, near_copies, remark_on, seen
from autoadapt.calibration.solvers import Recipe


def score(*losses, numbers=()):
    return Score(losses, tuple(0.5 for _ in losses), numbers or tuple(range(len(losses))))


class Wide(nn.Module):
    """A level with enough channels to tell images apart."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, 40, 8, stride=8), nn.Tanh())

    def forward(self, x):
        return self.layers(x)


def renderings(count, each, seed=0):
    """Each picture several times, a little brighter or darker, with other noise."""
    found = pictures(count, seed=seed)
    return torch.cat([(1 + 0.1 * i) * found + 0.05 * torch.randn_like(found) for i in range(each)])


class Vector(nn.Module):
    """One place, of which another of its kind explains little."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, 40, 12, stride=10), nn.Tanh(), nn.Conv2d(40, 40, 3), nn.Tanh())
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(2)

    def forward(self, x):
        return self.layers(x)


def fitted(images, backbone=Wide, data=None, **options):
    old, new = backbone(0), backbone(1)
    net = adapt(new, like=old, inputs=images[:1], project="always")
    torch.manual_seed(9)
    classes = nn.Linear(40, 5)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), classes)
    if backbone is Vector:
        classes.weight.data.mul_(8)
    found = calibrate(net, like=old, head=head, data=data or images.split(4), augment=0, **options)
    return found, net, old, head


def test_of_recipes_that_are_all_noise_the_honest_score_is_that_of_noise():
    draw = random.Random(0)
    flattered, honest = [], []
    for _ in range(200):
        tried = [score(*(draw.gauss(1, 1) for _ in range(8))) for _ in range(22)]
        best = min(tried, key=lambda one: one.loss)
        flattered.append(best.loss)
        honest.append(on_others(best, tried, {}).loss)
    assert sum(flattered) / 200 < 0.4
    assert abs(sum(honest) / 200 - 1) < 0.1


def test_a_clear_best_loses_nothing():
    tried = [score(1.0, 1.1, 0.9), score(2.0, 2.1, 1.9)]
    assert on_others(tried[0], tried, {}) == tried[0]


def test_near_copies_do_not_choose_for_one_another():
    """The first recipe is good on two copies and bad on the rest: only the copies would choose it."""
    tried = [score(0.0, 0.0, 2.5), score(1.0, 1.0, 1.0)]
    assert on_others(tried[0], tried, {}).losses[0] == 1.0
    tried = [score(0.0, 0.0, 0.0, 1.5), score(1.0, 1.0, 1.0, 1.0)]
    assert on_others(tried[0], tried, {}).losses[:3] == (0.0, 0.0, 0.0)
    assert on_others(tried[0], tried, {0: 0, 1: 0, 2: 0}).losses[:3] == (1.0, 1.0, 1.0)


def test_a_cautious_choice_is_corrected_by_what_the_best_flatters_itself_with():
    tried = [score(0.0, 1.0), score(1.0, 0.1), score(0.9, 0.9)]
    corrected = on_others(tried[2], tried, {})
    excess = on_others(tried[0], tried, {}).loss - tried[0].loss
    assert excess > 0
    assert corrected.loss > tried[2].loss


def test_later_steps_keep_the_correction():
    chosen, honest, later = score(1.0, 1.0), score(1.5, 1.25), score(0.5, 0.5)
    assert honest_after(later, chosen, honest).losses == (0.875, 0.875)
    assert honest_after(score(0.5, 0.5, 0.25), chosen, honest).losses == (0.875, 0.875, 0.625)
    assert honest_after(later, None, None) is later


def of_power(images, power, seed):
    """Losses and agreements of maps fitted on so many images, where both fall with a power of these."""
    draw = random.Random(seed)
    shares = [draw.expovariate(1) for _ in range(32)]
    fall = (images / 32) ** -power / fmean(shares)
    losses, agreements = zip(*((0.3 * fall * one, 1 - 0.1 * fall * one) for one in shares), strict=True)
    return Score(losses, agreements, (*range(32),))


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0, 2.0])
def test_what_falls_with_a_power_of_the_number_of_images_is_told_for_all_of_them(power):
    half, most, everyone = (of_power(images, power, seed=0) for images in (16, 24, 32))
    told = drawn_on(most, most, half)
    assert told.losses == pytest.approx(everyone.losses)
    assert told.agreements == pytest.approx(everyone.agreements)
    assert told.numbers == most.numbers


def test_what_was_reached_by_steps_is_drawn_on_alike():
    half, most, later = score(3.0, 3.0), score(2.0, 2.0), score(0.5, 1.5)
    assert drawn_on(later, most, half).loss == pytest.approx(1.0 * 3 / 4)


def test_images_that_gained_otherwise_widen_the_error():
    """All three means are of the same images: how surely they fall is in the spread of what is told."""
    most, alike, unlike = score(1.0, 2.0, 3.0), score(2.0, 4.0, 6.0), score(6.0, 4.0, 2.0)
    errors = [standard_errors(drawn_on(most, most, half), {})[0] for half in (alike, unlike)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("half", [score(0.0, 2.0), score(math.inf, 1.0), score(math.nan, 1.0), score(-1.0, -1.0)])
def test_what_no_power_can_lead_to_is_left_as_it_is(half):
    most = score(1.0, 2.0)
    assert drawn_on(most, most, half).losses == most.losses
    assert drawn_on(score(0.0, 0.0), most, score(2.0, 2.0)).losses == (0.0, 0.0)


class Bright(nn.Module):
    """One place of 40 channels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(3, 40, 16, stride=16)

    def forward(self, x):
        return torch.tanh(4 * self.layer(x))[..., :1, :1]


class Noisy(nn.Module):
    """The same turned, with noise: a map of 64 vectors has learned much of that."""

    def __init__(self):
        super().__init__()
        self.bright = Bright()
        self.turn = nn.Conv2d(40, 40, 1)

    def forward(self, x):
        found = self.bright(x)
        return self.turn(found) + 0.2 * torch.sin(1e4 * found)


def test_reports_are_about_maps_of_all_images():
    torch.manual_seed(9)
    old, new, classes = Noisy(), Bright(), nn.Linear(40, 5)
    classes.weight.data.mul_(8)
    head = nn.Sequential(nn.Flatten(), classes)
    told, of_three_quarters = [], []
    for seed in range(4):
        images, others = pictures(64, seed=seed), pictures(256, seed=100 + seed)
        net = adapt(new, like=old, inputs=images[:1], project="always")
        found = calibrate(net, like=old, head=head, data=[images], augment=0, solver=Recipe(0.1))
        with torch.no_grad():
            real = float(divergence(head(net(others)), head(old(others)), 256)[0].mean())
        told.append(math.log(found.head.loss / real))
        of_three_quarters.append(math.log(found.trials[0].score / real))
    assert fmean(of_three_quarters) > 0.2
    assert abs(fmean(told)) < fmean(of_three_quarters) / 2


@pytest.mark.parametrize(
    ("mean", "error", "sure"), [(1.0, 0.5, True), (1.0, 1.5, False), (-1.0, 0.0, False), (0.0, 0.0, False)]
)
def test_a_gain_is_sure_beyond_a_standard_error(mean, error, sure):
    assert Gain(mean, error).is_sure == sure


def test_copies_do_not_make_a_gain_surer():
    one = score(*[1.0] * 4, *[3.0])
    other = score(*[2.0] * 4, *[2.9])
    assert gain_over(one, other, {}).is_sure
    assert not gain_over(one, other, {0: 0, 1: 0, 2: 0, 3: 0}).is_sure


def test_only_images_that_both_were_tried_on_count():
    one, other = score(1.0, 1.0, 9.0, numbers=(0, 1, 5)), score(2.0, 2.0, numbers=(0, 1))
    assert gain_over(one, other, {}) == Gain(1.0, 0.0)


def test_infinite_losses_are_no_gain_but_over_them_there_is_one():
    bad = score(float("nan"), 1.0)
    assert not gain_over(bad, score(2.0, 2.0), {}).is_sure
    assert gain_over(score(2.0, 2.0), score(float("inf"), 3.0), {}).is_sure


def test_renderings_of_one_picture_count_once():
    images = renderings(8, 4)
    with torch.no_grad():
        features = Wide(0)(images).flatten(2).transpose(1, 2)
    groups = near_copies(dict(enumerate(descriptors([[(features, features)]]))))
    assert len(set(groups.values())) == 8
    assert all(groups[number] == number % 8 for number in groups)


def test_different_pictures_are_different_and_few_channels_say_nothing():
    with torch.no_grad():
        features = Wide(0)(pictures(48)).flatten(2).transpose(1, 2)
    groups = near_copies(dict(enumerate(descriptors([[(features, features)]]))))
    assert len(set(groups.values())) >= 44
    few = descriptors([[(features, features[..., :3])]])
    assert len(set(near_copies(dict(enumerate(few))).values())) == 48
    assert len(set(near_copies(dict(enumerate(few.repeat(3, 1)))).values())) == 48


def test_a_channel_that_is_wider_than_all_others_does_not_make_copies():
    with torch.no_grad():
        said_ND = Wide(0)(pictures(48)).mean((2, 3))
    alone = near_copies(dict(enumerate(said_ND)))
    said_ND[:, 3] *= 30
    assert len(set(alone.values())) >= 44
    assert len(set(near_copies(dict(enumerate(said_ND))).values())) >= 40


def test_more_images_than_are_described_are_counted_by_their_share():
    assert count_different({0: 0, 1: 0, 2: 2, 3: 3}, 400) == 300
    assert count_different({}, 7) == 7


def test_the_report_says_how_many_different_images_are_wanted():
    few, *_ = fitted(renderings(8, 4))
    assert any(remark.startswith("8 different images (of 32; near copies") for remark in few.remarks)
    many, *_ = fitted(pictures(96))
    assert not any("different images" in remark for remark in many.remarks)
    assert "about 64" in remark_on(12, 12)
    assert not remark_on(60, 64)
    assert "near copies" not in remark_on(12, 12)


def test_a_near_copy_comes_to_the_fold_of_what_it_is_a_copy_of_but_the_first_four_go_by_number():
    with torch.no_grad():
        features = Wide(0)(renderings(16, 4)).flatten(2).transpose(1, 2)
    said = dict(enumerate(descriptors([[(features, features)]])))
    folds = Folds().of_images(range(64), {}, said)
    assert all(folds[number] == folds[number % 16] for number in range(64))
    assert [folds[number] for number in range(16)] == [Folds().of_image(number) for number in range(16)]
    one_after_the_other = {4 * (number % 16) + number // 16: each for number, each in said.items()}
    adjacent = Folds().of_images(range(64), {}, one_after_the_other)
    assert [adjacent[number] for number in range(4)] == [0, 1, 2, 3]
    groups = near_copies(one_after_the_other)
    assert seen(groups, adjacent) <= set(range(8))
    halves = Folds().of_images(range(32), {}, said)
    assert halves | Folds().of_images(range(32, 64), halves, said) == folds


def test_what_is_good_for_other_renderings_of_the_same_pictures_alone_is_not_written():
    """One vector a picture, 24 pictures: 96 renderings determine a map that says nothing of other pictures."""
    torch.manual_seed(4)
    images, others = renderings(24, 4)[torch.randperm(96)], renderings(64, 4, seed=77)
    found, net, old, head = fitted(images, Vector)
    with torch.no_grad():
        real = divergence(head(net(others)), head(old(others)), 256)[0].mean()
    assert not found.written
    assert found.head.loss + found.head.loss_error > real


def test_where_all_have_copies_in_other_folds_they_are_judged_on_and_a_remark_says_so(monkeypatch):
    images, said = renderings(16, 4), "the images judged on have near copies among those fitted on"
    found, *_ = fitted(images)
    assert not any(remark.startswith(said) for remark in found.remarks)
    monkeypatch.setattr(Folds, "of_images", lambda self, numbers, *_: {n: self.of_image(n) for n in numbers})
    flattered, *_ = fitted(images)
    assert any(remark.startswith(said) for remark in flattered.remarks)
    assert flattered.head_images == 64


def test_copies_are_held_out_together_also_where_a_run_is_cut_off_or_batches_are_of_other_sizes(tmp_path):
    images = renderings(8, 4)[torch.randperm(32, generator=torch.Generator().manual_seed(2))]

    def cut_off():
        yield from images.split(4)[:3]
        raise KeyboardInterrupt

    whole, state = fitted(images), tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fitted(images, data=cut_off(), state=state)
    for other in (fitted(images, state=state), fitted(images, data=images.split(7))):
        assert other[0].head == whole[0].head
        assert same(weights(other[1]), weights(whole[1]))


def test_standard_errors_count_copies_once_and_are_not_nothing_where_all_agree():
    of_loss, of_agreement = standard_errors(Score((1.0, 2.0, 3.0, 3.0), (1.0,) * 4, (0, 1, 2, 3)), {3: 2})
    assert of_loss == pytest.approx(6**0.5 / 3)
    assert of_agreement == pytest.approx((5 / 7 * 2 / 7 / 7) ** 0.5)
    assert standard_errors(score(float("inf"), 1.0), {})[0] is None
    assert standard_errors(score(1.0), {})[0] is None


def test_standard_errors_of_few_losses_allow_for_worse_ones_that_were_not_met():
    draw = random.Random(0).gauss
    hits = 0
    for _ in range(400):
        losses = tuple(math.exp(draw(0, 1)) for _ in range(8))
        error, _ = standard_errors(Score(losses, (1.0,) * 8), {})
        hits += abs(fmean(losses) - math.exp(0.5)) <= 2 * error
    assert hits > 0.85 * 400


def test_the_report_shows_standard_errors():
    found, *_ = fitted(pictures(32))
    assert f"{found.head.agreement:.3f} ± {found.head.agreement_error:.3f}" in str(found)
    assert f"{found.head.loss:.3f} ± {found.head.loss_error:.3f}" in str(found)


def test_what_is_no_better_than_the_mean_beyond_chance_is_not_written():
    class Noise(nn.Module):
        """Features that have nothing to do with those of before."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 40, 8, stride=8)

        def forward(self, x):
            return torch.sin(1e4 * self.layer(x))

    written = 0
    for seed in range(3):
        torch.manual_seed(seed)
        images, old, new = pictures(8, seed=seed), Wide(seed), Noise()
        net = adapt(new, like=old, inputs=images[:1], project="always")
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5))
        found = calibrate(net, like=old, head=head, data=images.split(4), augment=0)
        written += found.written
        assert found.written or "no better than" in found.verdict
    assert written <= 1
