"""Whatever goes wrong, every weight is bit for bit as it was, and the error says what to do."""

import pytest
import torch
from calibration_models import Model, Pyramid, model_with, pictures, same, weights
from calibration_pairs import BATCHES
from torch import nn
from torch.nn.utils import parametrizations, prune

from autoadapt.adapting import adapt
from autoadapt.calibration import Recipe, calibrate, distil
from autoadapt.errors import AdaptError, CalibrationError

IMAGES = pictures(16)


class Broken(nn.Module):
    """A backbone that makes one value of one level of one image what it should not be."""

    def __init__(self, backbone, value, threshold):
        super().__init__()
        self.backbone = backbone
        self.value = value
        self.threshold = threshold

    def forward(self, x):
        levels = self.backbone(x)
        if float(x.abs().max()) > self.threshold:
            levels[1] = levels[1].clone()
            levels[1][0, 0, 0, 0] = self.value
        return levels


def setup():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    return old, model_with(old, new)


def spoilt(index):
    images = IMAGES.clone()
    images[index] *= 1e4
    return images.split(4)


def refused(model, old, match, **options):
    options = {"at": "backbone", "like": old, "data": IMAGES.split(4)} | options
    before = weights(model, old)
    with pytest.raises(AdaptError, match=match) as caught:
        calibrate(model, **options)
    assert same(before, weights(model, old))
    return str(caught.value)


def test_no_batches():
    old, model = setup()
    assert "data=[images]" in refused(model, old, "no images to calibrate on", data=[])


def test_fewer_images_than_folds():
    old, model = setup()
    text = refused(model, old, "too few images", data=[IMAGES[:3]])
    assert "at least 4 images" in text
    assert "found     3" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_name_output_and_batch(value):
    old, model = setup()
    model.backbone = adapt(Broken(Pyramid((3, 5)), value, 1e3), like=old.backbone, inputs=IMAGES[:2])
    text = refused(model, old, "not finite", data=spoilt(9))
    assert "batch 2, output 1" in text
    assert "of the new backbone" in text


def test_old_features_that_are_not_finite_are_told_apart():
    old, model = setup()
    broken = Broken(old.backbone, float("nan"), 1e3)
    assert "of the old backbone" in refused(model, old, "not finite", like=broken, data=spoilt(0))


class Halved(nn.Module):
    """The old backbone behind a resize that the new one does not have."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(x[..., ::2, ::2])


def test_old_and_new_seeing_different_sizes():
    old, model = setup()
    text = refused(model, old, "does not return what the new one was adapted to", like=Halved(old.backbone))
    assert "batch 0, output 0" in text
    assert "[4, 4, 16, 16]" in text
    assert "[4, 4, 8, 8]" in text


def test_an_old_module_of_other_outputs():
    old, model = setup()
    assert "no such output" in refused(model.backbone, old, "does not return", at=None, like=Pyramid((4,)))


@pytest.mark.parametrize("late", [False, True])
def test_a_head_that_raises(late):
    old, model = setup()
    calls = []

    def head(levels):
        calls.append(1)
        if not late or len(calls) > 5:
            raise RuntimeError("no memory left")
        return old.head(levels)

    net = model.backbone
    text = refused(net, old.backbone, "head", at=None, head=head, like=old.backbone)
    assert "RuntimeError: no memory left" in text


def test_a_head_that_was_never_run():
    old, model = setup()
    text = refused(model.backbone, old.backbone, "head failed", at=None, head=nn.LazyLinear(3), like=old.backbone)
    assert "run the model once first" in text


def test_a_head_without_logits():
    old, model = setup()
    text = refused(model.backbone, old.backbone, "cannot be compared", at=None, head=lambda levels: 3)
    assert "loss=lambda found, expected" in text


def test_a_head_that_answers_with_nan():
    old, model = setup()
    net = model.backbone
    text = refused(net, old.backbone, "cannot be compared", at=None, head=lambda levels: old.head(levels) * torch.nan)
    assert "look at its weights" in text


def test_a_backbone_that_raises_and_batches_that_do_not_fit():
    old, model = setup()
    text = refused(model, old, "old model failed", data=[IMAGES[:, :2]])
    assert "batch 0" in text
    text = refused(model, old, "batch 1 failed", data=[IMAGES[:4], (IMAGES, IMAGES, IMAGES)])
    assert "a call that fits forward" in text
    refused(model, old, "batch 0 failed", data=[torch.zeros(4, 3, 0, 32)])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run(kind):
    old, model = setup()
    before = weights(model, old)

    def data():
        yield IMAGES[:8]
        raise kind("stop")

    with pytest.raises(kind, match="stop"):
        calibrate(model, at="backbone", like=old, data=data())
    assert same(before, weights(model, old))
    assert model(IMAGES[:2]).requires_grad


def test_interrupted_while_the_head_is_tried_and_while_refining():
    old, model = setup()
    for after in (6, 200):
        calls = []

        def head(levels, calls=calls, after=after):
            calls.append(1)
            if len(calls) > after:
                raise KeyboardInterrupt
            return old.head(levels)

        before = weights(model, old)
        with pytest.raises(KeyboardInterrupt):
            calibrate(model.backbone, like=old.backbone, head=head, data=IMAGES.split(4), refine=500)
        assert same(before, weights(model, old))


def test_constant_channels_are_remarked_and_fitted_around():
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1).eval()
    new.stages[1][1].weight.data[2] = 0
    model = model_with(old, new)
    found = calibrate(model, at="backbone", like=old, data=IMAGES.split(4))
    assert found.written
    assert "1: 1 of 5 channels of 1 are constant" in found.remarks
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(model))


def test_more_channels_than_tokens_leave_only_fits_with_a_penalty():
    old, new = Model((4, 6)).eval(), Pyramid((3, 80), seed=1)
    model = model_with(old, new)
    found = calibrate(model, at="backbone", like=old, data=IMAGES[:8].split(4), tokens_per_image=4)
    assert any("tokens for 80 channels, so only fits with a penalty are tried" in remark for remark in found.remarks)
    assert not any("least squares" in trial.solver for trial in found.trials)


def test_nothing_adapted_at_the_path():
    old, model = setup()
    assert 'at="backbone"' in refused(model, old, "no adapted module", at=None)
    assert "nearest: backbone" in refused(model, old, "no adapted module", at="backbon")
    assert "found     Reader" in refused(model, old, "no adapted module", at="head")


def test_nothing_to_fit():
    old = Model((4, 6)).eval()
    model = model_with(old, old.backbone)
    assert 'project="always"' in refused(model, old, "nothing to calibrate")


def test_a_solver_of_no_known_name():
    old, model = setup()
    text = refused(model, old, "no such solver", solver="procruste")
    assert 'solver="procrustes"' in text


def test_faults_are_calibration_errors():
    old, model = setup()
    with pytest.raises(CalibrationError):
        calibrate(model, at="backbone", like=old, data=[])


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("options", "text", "remedy"),
    [
        ({"data": IMAGES}, "found     one tensor of (16, 3,", "data=[images]"),
        ({"data": (2, 3, 64, 64)}, "found     the shape (2, 3, 64, 64)", "data=[images]"),
        ({"data": "folder"}, "found     the text 'folder'", "of the images in that folder"),
        ({"data": None}, "found     nothing", "data=[images]"),
        ({"data": {"x": IMAGES}}, ", of type dict", "data=[images]"),
        ({"data": 3}, "found     3, of type int", "data=[images]"),
        ({"images": 0}, "expected  a whole number from 1\n  found     0", "images=128"),
        ({"images": -1}, "found     -1", "images=128"),
        ({"tokens_per_image": 0}, "`tokens_per_image`\n  expected  a whole number from 1", "tokens_per_image=128"),
        ({"refine": -1}, "expected  a whole number from 0\n  found     -1", "refine=0"),
        ({"refine": "many"}, "found     'many'", "refine=0"),
        ({"device": "foo"}, "`device`\n  expected  a device that is there\n  found     'foo': ", 'device="cpu"'),
        ({"device": "meta"}, "found     'meta': tensors without values", 'device="cpu"'),
    ],
)
def test_arguments_that_it_does_not_take(options, text, remedy):
    old, model = setup()
    said = refused(model, old, "calibrate does not take these arguments", **options)
    assert text in said
    assert said.endswith(remedy)


def test_distil_says_so_of_itself():
    old, model = setup()
    with pytest.raises(CalibrationError, match=r"^distil does not take these arguments\n`steps`"):
        distil(model.backbone, like=old.backbone, data=[IMAGES], steps=0)


def test_the_adapted_model_as_its_own_old_one():
    _, model = setup()
    text = refused(model, model, "the adapted module would be fitted to itself")
    assert "found     the adapted one itself" in text


def test_images_that_are_all_one_image():
    old, model = setup()
    text = refused(model, old, "all images are one image", data=[IMAGES[:1].repeat(4, 1, 1, 1)] * 4)
    assert "found     16 times the same image" in text


def test_adapters_that_are_computed_from_others_are_refused_before_anything_runs():
    for change in (parametrizations.weight_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.5)):
        old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
        model = model_with(old, new)
        change(next(one for one in model.backbone.adapters.modules() if isinstance(one, nn.Conv2d)))
        before = weights(model)
        with pytest.raises(CalibrationError, match="computed from others cannot be written") as caught:
            calibrate(model, at="backbone", like=old, data=[IMAGES])
        (fault,) = caught.value.mismatches
        assert fault.where == "adapters.0.project.weight"
        assert "remove_parametrizations" in fault.remedy
        assert same(before, weights(model))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("wrap", [torch.optim.swa_utils.AveragedModel, torch.nn.DataParallel])
def test_the_old_model_of_one_that_is_wrapped_is_that_of_what_it_holds(wrap):
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    model = model_with(old, new)
    wrapped = wrap(model)
    found = calibrate(wrapped, at="module.backbone", like=old, data=BATCHES, solver=Recipe(1.0))
    plain = calibrate(model_with(old, new), at="backbone", like=old, data=BATCHES, solver=Recipe(1.0))
    assert found.head == plain.head
    assert found.outputs == plain.outputs


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("batch", "remedy"),
    [
        (IMAGES[0], "data=(x[None] for x in images)"),
        (IMAGES[:4].permute(0, 2, 3, 1), "data=(x.permute(0, 3, 1, 2) for x in images)"),
        (IMAGES[:4].double(), "data=(x.to(torch.float32) for x in images)"),
        ((IMAGES[:4] * 255).byte(), "data=(x.to(torch.float32) / 255 for x in images)"),
        ("a.png", "data=(torchvision.io.decode_image(name)[None] / 255 for name in names)"),
        (["a.png", "b.png"], "data=(torchvision.io.decode_image(name)[None] / 255 for name in names)"),
    ],
)
def test_batches_at_which_the_old_model_raises_are_told_by_those_at_which_it_runs(batch, remedy):
    old, model = setup()
    assert f"try       {remedy}" in refused(model, old, "batch 0.* failed", data=[batch] * 4)


def test_models_of_two_dtypes_are_told_how_to_be_of_one():
    old, model = setup()
    said = refused(model.half(), old, "batch 0, new backbone failed")
    assert "try       net.to(torch.float32)  # as the old model is" in said
