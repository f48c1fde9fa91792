"""Images that calibrate makes itself: of what, how many, of which fold, and that nothing is judged on them."""

import random

import pytest
import torch
from calibration_models import Model, Pyramid, model_with, pictures, same, weights
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import calibrate, made_images, mixed_sounds
from autoadapt.calibration.gathering import Gathering
from autoadapt.calibration.held_out_maps import Fitting
from autoadapt.calibration.image_folds import Folds
from autoadapt.calibration.made_images import Making
from autoadapt.calibration.made_inputs import Inputs, kind_of
from autoadapt.calibration.mixed_pictures import Layers, mixed
from autoadapt.calibration.moments import Moments
from autoadapt.calibration.paired_runs import Pair
from autoadapt.calibration.progress_bars import Progress
from autoadapt.calibration.samples import Sample, Samples, cut
from autoadapt.calibration.solvers import Recipe
from autoadapt.errors import CalibrationError


@pytest.fixture(autouse=True)
def few_made_images(monkeypatch, no_made_images):
    """As many as show that they are made; their number is a matter of quality, and of minutes."""
    monkeypatch.setattr(made_images, "MADE", 8)


def pair():
    torch.manual_seed(3)
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    torch.manual_seed(5)
    return model_with(old, new), old


def calibrated(count=12, **options):
    model, old = pair()
    found = calibrate(model, at="backbone", like=old, data=pictures(count).split(4), **options)
    return found, model


def gathered(augment, count=12, folds=None):
    model, old = pair()
    gathering = Gathering(
        Pair(model, old, "backbone", None), None, keeps_images=True, tokens_per_image=20, images=256, seed=0,
        augment=augment,
    )  # fmt: skip
    gathering.folds = folds or gathering.folds
    return gathering, gathering.run(pictures(count).split(4), None, Progress())


def one(value):
    """One image's part of a call on a batch of two."""
    return cut(value, 0, 2)


@pytest.fixture
def seeded():
    random.seed(0)
    torch.manual_seed(0)


def waves(count=4, length=600):
    time = torch.arange(length) / 8000
    return torch.stack([torch.sin(2 * torch.pi * 200 * (k + 1) * time + k) for k in range(count)])


def test_images_are_made_of_each_fold_and_out_of_nothing():
    _, state = gathered("auto")
    assert [[part.count // 20 for part in parts] for parts in state.made] == [[2, 2, 2, 2, 8]] * 2
    assert (state.mixed, state.synthetic) == (8, 8)


def test_with_many_channels_one_fold_is_mixed_and_the_judged_one_is_not():
    _, state = gathered("auto", folds=Folds(holds_one_out=True))
    assert [part.count // 20 for part in state.made[0]] == [0, 8, 8]


def test_0_makes_none_and_gives_what_the_images_alone_give():
    _, state = gathered(0)
    assert not state.made
    found, _ = calibrated(augment=0)
    assert (found.mixed_images, found.synthetic_images) == (0, 0)


def test_images_are_made_until_there_are_enough_and_synthetic_pictures_where_there_are_few(monkeypatch):
    for name, number in {"ENOUGH": 32, "FEW": 12, "MADE": 20}.items():
        monkeypatch.setattr(made_images, name, number)
    for images, made in {4: (20, 8), 12: (20, 0), 16: (16, 0)}.items():
        state = gathered("auto", images)[1]
        assert (state.mixed, state.synthetic) == made
        assert images + sum(made) == 32


def test_from_1024_images_on_none_are_made(monkeypatch):
    monkeypatch.setattr(made_images, "ENOUGH", 12)
    assert not gathered("auto", 12)[1].made
    assert gathered("auto", 11)[1].mixed == 1


def test_the_moments_of_the_callers_images_are_those_without_made_ones():
    plain, more = gathered(0)[1], gathered("auto")[1]
    for left, right in zip(plain.moments[0], more.moments[0], strict=True):
        assert same(left.tensors.values(), right.tensors.values())


def test_made_images_are_fitted_on_with_the_fold_of_their_parents_and_never_judged_on():
    parts = [[Moments.of(torch.randn(9, 2), torch.randn(9, 1)) for _ in range(4)]]
    spoilt = [[Moments.of(torch.full((9, 2), 1e6 + k), torch.full((9, 1), -1e6)) for k in range(5)]]
    fitting = Fitting(parts, Folds(), spoilt)
    assert fitting.count(0) == 9 * 9
    assert fitting.count(0, (1, 2, 3)) == 9 * 3 + 9 * 3 + 9
    used = fitting.moments(0, (1, 2, 3))
    expected = Moments.sum([*parts[0][1:], *spoilt[0][1:]])
    assert torch.equal(used.xx_CC, expected.xx_CC)
    alone = Fitting(parts, Folds())
    maps = alone.held_out_map(0, Recipe(1.0))
    for left, right in zip(fitting.held_out(0, maps).values(), alone.held_out(0, maps).values(), strict=True):
        assert left == right


def test_mosaics_and_patches_take_nothing_of_another_fold():
    samples = Samples(4, 0)
    for number in range(12):
        colour = torch.full((1, 3, 16, 16), float(number % 4)) + torch.rand(1, 3, 16, 16) * 0.1
        samples.add(Sample(number, number % 4, 1, cut({"x": colour}, 0, 1), (), cut((), 0, 1)))
    made = Making("auto", samples, Folds(), 12, 0)
    made._inputs.mixed = lambda number, parents: parents  # what goes in, instead of what is made of it
    for fold in range(4):
        for number in range(8):
            assert {round(float(each.tensors[0].mean())) for each in made._made(fold, number)} == {fold}


def test_the_same_call_makes_the_same_images_and_draws_none_of_the_callers_numbers():
    random.seed(7)
    torch.manual_seed(7)
    (first, left), drawn = calibrated(), (random.random(), float(torch.rand(())))
    random.seed(8)
    (second, right), _ = calibrated(), 0
    assert same(weights(left), weights(right))
    assert first.model_copy(update={"seconds": 0.0, "solver_seconds": 0.0}) == second.model_copy(
        update={"seconds": 0.0, "solver_seconds": 0.0}
    )
    random.seed(7)
    torch.manual_seed(5)  # the last that `pair` sets
    assert drawn[0] == random.random()


def test_another_seed_makes_other_images():
    _, state = gathered("auto")
    model, old = pair()
    other = Gathering(
        Pair(model, old, "backbone", None), None, keeps_images=True, tokens_per_image=20, images=256, seed=1,
        augment="auto",
    ).run(pictures(12).split(4), None, Progress())  # fmt: skip
    assert not torch.equal(state.made[0][-1].xx_CC, other.made[0][-1].xx_CC)


@pytest.mark.slow
def test_a_run_that_was_cut_while_images_were_made_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    whole, expected = calibrated(state=tmp_path / "whole.safetensors")
    counted = []
    original = Gathering._add_made

    def stopping(self, state, batch, seen):
        if len(counted) == 3:
            raise KeyboardInterrupt
        counted.append(batch)
        original(self, state, batch, seen)

    monkeypatch.setattr(Gathering, "_add_made", stopping)
    with pytest.raises(KeyboardInterrupt):
        calibrated(state=path)
    monkeypatch.setattr(Gathering, "_add_made", lambda *given: (counted.append(given[-2]), original(*given))[1])
    found, model = calibrated(state=path)
    assert len({batch.number for batch in counted}) == len(counted) == 6
    assert same(weights(expected), weights(model))
    assert found.mixed_images == whole.mixed_images


def test_a_function_makes_them_of_one_fold_at_a_time():
    seen = []

    def mirrored(images):
        seen.append(images)
        return images.flip(-1)

    _, state = gathered(mirrored)
    assert all(images.shape[1:] == (3, 32, 32) for images in seen)
    own = [Folds().of_image(number) for number in range(12)]
    folds = [[one for one, mine in zip(pictures(12), own, strict=True) if mine == fold] for fold in range(4)]
    for images in seen:
        assert any(all(any(torch.equal(i, j) for j in fold) for i in images) for fold in folds)
    assert state.mixed == sum(map(len, seen)) == 8
    assert not state.made[0][-1].count


def test_a_function_is_called_anew_where_a_run_goes_on(tmp_path):
    called = []
    for sign in (1, -1):
        calibrated(
            state=tmp_path / "state.safetensors", augment=lambda images, sign=sign: called.append(sign) or images
        )
    assert called.count(1) == called.count(-1) == 4


def test_a_function_gets_every_image_where_sizes_differ_and_may_write_into_it():
    seen = {}

    def halved(images):
        seen.setdefault(images.shape[-1], []).extend(images.mean((1, 2, 3)).tolist())
        return images.mul_(0.5)

    model, old = pair()
    data = [pictures(1, size=size, seed=size) for size in range(16, 64, 8)]
    given = [images.clone() for images in data]
    calibrate(model, at="backbone", like=old, data=data, augment=halved)
    assert len(seen) == len(data)
    assert sum(map(len, seen.values())) == 8
    for images in given:
        assert all(abs(mean - float(images.mean())) < 1e-6 for mean in seen[images.shape[-1]])
    assert same(given, data)


def test_a_function_may_make_more_or_fewer_images_than_it_is_given():
    _, state = gathered(lambda images: torch.cat([images, images.flip(-1), images[:1]]))
    assert state.mixed == 8 * 2 + 4


def test_a_function_that_fails_is_an_error_and_changes_nothing():
    model, old = pair()
    before = weights(model)
    with pytest.raises(CalibrationError, match="augment failed") as caught:
        calibrate(model, at="backbone", like=old, data=pictures(12).split(4), augment=lambda images: images.gone)
    assert "no attribute 'gone'" in str(caught.value)
    assert same(before, weights(model))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("augment", ["some", 1, None, 2.5])
def test_anything_else_is_refused_before_anything_runs(augment):
    model, old = pair()
    with pytest.raises(CalibrationError, match='augment="auto"'):
        calibrate(model, at="backbone", like=old, data=pictures(12).split(4), augment=augment)


def test_images_that_a_model_refuses_leave_the_images_alone():
    class Picky(Model):
        def forward(self, images):
            if images.shape[0] == 2:  # the caller's come in fours, made ones of a fold in twos
                raise ValueError("twos are not for me")
            return super().forward(images)

    torch.manual_seed(3)
    old, new = Picky((4, 6)).eval(), Pyramid((3, 5), seed=1)
    model = Picky((4, 6)).eval()
    model.load_state_dict(old.state_dict())
    model.backbone = adapt(new, like=old.backbone, inputs=torch.zeros(2, 3, 32, 32))
    found = calibrate(model, at="backbone", like=old, data=pictures(12).split(4))
    assert (found.mixed_images, found.synthetic_images) == (0, 0)
    assert any("images that were made were of no use" in remark for remark in found.remarks)


def test_without_a_head_the_features_decide():
    old, new = Pyramid((4, 6)), Pyramid((3, 5), seed=1)
    net = adapt(new, like=old, inputs=torch.zeros(1, 3, 32, 32))
    found = calibrate(net, like=old, data=pictures(12).split(4))
    assert found.written in (True, False)
    assert found.mixed_images in (0, 8)
    assert found.head is None


def test_the_report_says_how_many_were_made():
    found, _ = calibrated()
    plain = found.model_copy(update={"mixed_images": 0, "synthetic_images": 0})
    assert "fitted on  " not in str(plain)
    assert "the images and 8 mixes of the images" in str(plain.model_copy(update={"mixed_images": 8}))
    both = {"mixed_images": 8, "synthetic_images": 16}
    assert "the images, 8 mixes of the images and 16 synthetic pictures" in str(plain.model_copy(update=both))


@pytest.mark.parametrize(
    ("value", "role"),
    [
        ({"x": torch.zeros(2, 3, 32, 32)}, "picture"),
        ({"x": torch.zeros(2, 32, 32, 3)}, "picture"),
        ({"x": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}, "picture"),
        ({"x": torch.zeros(2, 3, 32, 32), "mask": torch.zeros(2, 32, 32, dtype=torch.bool)}, "picture"),
        ({"x": torch.zeros(2, 3, 32, 32), "words": torch.zeros(2, 7, dtype=torch.long)}, None),
        ({"x": [torch.zeros(3, 32, 40), torch.zeros(3, 20, 32)]}, "picture"),
        ({"x": waves()[:2]}, "sound"),
        ({"x": waves()[:2, None]}, "sound"),
        ({"x": torch.zeros(2, 50, dtype=torch.long)}, None),
        ({"x": torch.randn(2, 3, 1024)}, None),
        ({"x": torch.randn(2, 1024)}, None),
        ({"x": torch.rand(2, 1024, 3)}, None),
        ({"x": torch.zeros(2, 5, 3, 32, 32)}, None),
        ({"left": torch.rand(2, 3, 32, 32), "right": torch.rand(2, 3, 32, 32)}, None),
    ],
)
def test_what_the_input_is_decides_what_is_made_of_it(value, role):
    kind = kind_of(one(value))
    assert (kind and kind.role) == role


@pytest.mark.parametrize(
    ("value", "main"),
    [
        ({"x": torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "mask": torch.rand(2, 1, 32, 32).round()}, 0),
        ({"mask": torch.rand(2, 1, 32, 32).round(), "x": torch.rand(2, 3, 32, 32)}, 1),
        ({"mask": torch.rand(2, 1, 32, 32).round(), "x": torch.rand(2, 1, 32, 32)}, 1),
    ],
)
def test_a_mask_is_not_taken_for_the_picture(value, main):
    kind = kind_of(one(value))
    assert (kind.main, kind.over) == (main, (1 - main,))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.uint8])
@pytest.mark.parametrize("channels_last", [False, True])
def test_made_pictures_keep_dtype_shape_range_and_level(seeded, dtype, channels_last):
    images = (pictures(8).clamp(-2, 2) + 2) / 4 * 255
    images = images if dtype == torch.uint8 else images / 255 * 4 - 3
    images = (images.movedim(1, -1) if channels_last else images).to(dtype)
    cuts = [cut({"x": images}, i, 8) for i in range(8)]
    inputs = Inputs(kind_of(cuts[0]), cuts)
    made = [inputs.mixed(k, [cuts[k % 8], *cuts]) for k in range(48)]
    made += [inputs.synthetic(k, cuts[0]) for k in range(48)]
    found = torch.cat([each.tensors[0] for each in made])
    assert found.dtype == dtype
    assert found.shape[1:] == images.shape[1:]
    assert found.double().min() >= images.double().min() - 0.01
    assert found.double().max() <= (255 if dtype == torch.uint8 else images.double().max() + 0.01)
    span = float(images.double().max() - images.double().min())
    for half in (found[:48], found[48:]):
        assert abs(float(half.double().mean() - images.double().mean())) < 0.15 * span
        assert 0.5 < float(half.double().std() / images.double().std()) < 2
    assert len({tuple(each.flatten()[:50].tolist()) for each in found}) > 90


def test_channels_keep_their_own_levels(seeded):
    images = torch.rand(8, 3, 24, 24) * torch.tensor([1.0, 10.0, 100.0])[:, None, None] - 5
    cuts = [cut({"x": images}, i, 8) for i in range(8)]
    made = torch.cat([Inputs(kind_of(cuts[0]), cuts).synthetic(k, cuts[0]).tensors[0] for k in range(60)])
    expected = images.mean((0, 2, 3))
    assert torch.allclose(made.mean((0, 2, 3)), expected, atol=0, rtol=0.25) or bool(
        ((made.mean((0, 2, 3)) - expected).abs() < 0.15 * torch.tensor([1.0, 10.0, 100.0])).all()
    )


def test_a_mask_goes_along_with_its_picture(seeded):
    mask = torch.zeros(4, 24, 24, dtype=torch.bool)
    mask[:, 6:18, 4:20] = True
    images = mask[:, None].expand(-1, 3, -1, -1).float()
    cuts = [cut({"x": images, "mask": mask}, i, 4) for i in range(4)]
    inputs = Inputs(kind_of(cuts[0]), cuts)
    assert not inputs.can_be_synthetic
    wrong = []
    for number in range(30):
        made = inputs.mixed(number, [cuts[number % 4], *cuts])
        image, over = made.tensors
        assert over.dtype == torch.bool
        low, high = image[0].mean(0)[~over[0]].median(), image[0].mean(0)[over[0]].median()
        wrong.append(float(low > high))
    assert sum(wrong) == 0


def test_a_mosaic_fills_the_whole_picture(seeded):
    parents = [Layers(torch.full((3, 20, 30), 0.2 * k)) for k in range(5)]
    for number in range(30):
        made = mixed(number, parents).picture_CHW
        assert made.shape == (3, 20, 30)
        assert torch.isfinite(made).all()
        assert made.min() >= 0
        assert made.max() <= 1


@pytest.mark.parametrize("keeps", [True, False])
def test_sounds_keep_their_level_where_all_have_the_same(seeded, keeps):
    given = waves(4) if keeps else waves(4) * torch.tensor([[0.1], [1.0], [2.0], [0.5]])
    cuts = [cut({"x": given}, i, 4) for i in range(4)]
    made = [Inputs(kind_of(cuts[0]), cuts).mixed(k, [cuts[k % 4], *cuts]).tensors[0] for k in range(40)]
    levels = torch.stack([each.std() for each in made])
    assert all(each.shape == (1, 600) for each in made)
    assert bool((levels.std() < 0.1 * levels.mean()) == keeps)
    assert torch.stack(made).abs().max() <= given.abs().max()


def test_a_network_of_waveforms_is_calibrated_with_sounds_made_of_them():
    def network(width):
        return nn.Sequential(nn.Conv1d(1, width, 16, stride=8), nn.Tanh())

    torch.manual_seed(0)
    old, new = network(6), network(4)
    net = adapt(new, like=old, inputs=waves()[:, None])
    gathering = Gathering(
        Pair(net, old, None, None), None, keeps_images=False, tokens_per_image=16, images=64, seed=0, augment="auto"
    )
    state = gathering.run(waves(8)[:, None].split(4), None, Progress())
    assert [part.count // 16 for part in state.made[0]] == [2, 2, 2, 2, 0]


def test_a_sound_that_is_played_faster_is_higher_by_as_much():
    along = torch.arange(1024)
    wave = torch.sin(2 * torch.pi * 64 * along / 1024)
    for speed in (0.75, 1.0, 1.25):
        made = mixed_sounds._faster(wave, speed)
        assert made.shape == wave.shape
        assert int(torch.fft.rfft(made).abs().argmax()) == 64 * speed
    torch.testing.assert_close(mixed_sounds._faster(wave, 1.0), wave)
    halves = torch.stack([wave, 2 * wave])
    torch.testing.assert_close(mixed_sounds._faster(halves, 1.1)[1], 2 * mixed_sounds._faster(wave, 1.1))


def test_one_silent_clip_does_not_keep_sounds_from_being_made(seeded):
    given = waves(4)
    given[1] = 0
    cuts = [cut({"x": given}, i, 4) for i in range(4)]
    assert {kind_of(each).role for each in cuts} == {"sound"}
    inputs = Inputs(kind_of(cuts[0]), cuts)
    made = torch.cat([inputs.mixed(k, [cuts[k % 4], *cuts]).tensors[0] for k in range(40)])
    assert torch.isfinite(made).all()
    levels = made.std(1)[[k for k in range(40) if k % 4 != 1]]
    assert float(levels.std() / levels.mean()) < 0.1  # the silent one is no reason to change the gain of the others


@pytest.mark.parametrize("size", [3, 4])
def test_made_images_run_in_batches_no_larger_than_the_callers(size):
    model, old = pair()
    ran = []
    gathering = Gathering(
        Pair(model, old, "backbone", None),
        None,
        keeps_images=True,
        tokens_per_image=16,
        images=64,
        seed=0,
        augment="auto",
    )
    gathering._pair.adapted.backbone.register_forward_pre_hook(lambda _module, args: ran.append(len(args[0])))
    state = gathering.run(pictures(12).split(size), None, Progress())
    assert state.mixed == 8
    assert max(ran) == size
    assert state.together == size


def test_detectors_get_lists_of_images_of_their_own_sizes(seeded):
    images = [torch.rand(3, 24, 30), torch.rand(3, 40, 20)]
    cuts = [cut({"images": images}, i, 2) for i in range(2)]
    inputs = Inputs(kind_of(cuts[0]), cuts)
    for number in range(6):
        made = inputs.mixed(number, [cuts[number % 2], *cuts]).value["images"]
        assert [each.shape for each in made] == [images[number % 2].shape]


def test_a_function_that_makes_no_images_is_named():
    model, old = pair()
    with pytest.raises(CalibrationError, match="augment failed") as caught:
        calibrate(model, at="backbone", like=old, data=pictures(12).split(4), augment=lambda images: images[:0])
    assert "an empty batch" in str(caught.value)
