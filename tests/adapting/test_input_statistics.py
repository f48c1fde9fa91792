"""What modules expect of the values of their images, compared and converted."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import autoadapt as aa
from autoadapt.adapting.operations import Renormalize

CAFFE = aa.Statistics(mean=(103.53, 116.28, 123.675), order="bgr", range=255)
IMAGENET = aa.Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALVES = aa.Statistics(mean=0.5, std=0.5)
PIXELS = aa.Statistics()
BYTES = aa.Statistics(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), range=255)


class Old(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Sees(nn.Module):
    """Returns what it is given, at a quarter of the size, so that tests see it."""

    def __init__(self, statistics: object = None) -> None:
        super().__init__()
        if statistics is not None:
            self.pretrained_cfg = statistics
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.conv(x)


def cfg(told: aa.Statistics) -> dict[str, object]:
    return {"mean": told.of(3)[0], "std": told.of(3)[1]}


def by_hand(pixels: torch.Tensor, told: aa.Statistics) -> torch.Tensor:
    """Preprocessing as a person writes it; pixels RGB, 0 to 1."""
    mean, std = (torch.tensor(one)[:, None, None] for one in told.of(3))
    pixels = pixels[:, [2, 1, 0]] if told.order == "bgr" else pixels
    return (pixels * told.range - mean) / std


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(IMAGENET, HALVES), (CAFFE, IMAGENET), (PIXELS, CAFFE), (BYTES, PIXELS), (HALVES, CAFFE)],
    ids=["imagenet to halves", "caffe to imagenet", "pixels to caffe", "bytes to pixels", "halves to caffe"],
)
def test_converted_images_equal_hand_written_preprocessing(given: aa.Statistics, wanted: aa.Statistics) -> None:
    pixels = torch.rand(2, 3, 16, 20)
    told = {"old": given, "new": wanted}
    net = aa.adapt(Sees(), like=Old(), inputs=torch.zeros(1, 3, 32, 32), input_statistics=told).eval()
    net(by_hand(pixels, given))
    expected = by_hand(pixels, wanted)
    assert (net.backbone.seen[-1] - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize(("given", "wanted"), [(IMAGENET, IMAGENET), (BYTES, IMAGENET.model_copy()), (HALVES, HALVES)])
def test_equal_statistics_add_nothing(given: aa.Statistics, wanted: aa.Statistics) -> None:
    same = aa.Statistics(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), range=255)
    wanted = same if given is BYTES else wanted
    net = aa.adapt(Sees(), like=Old(), inputs=torch.zeros(1, 3, 32, 32), input_statistics={"old": given, "new": wanted})
    assert net.plan.inputs[0].steps == ()
    assert net.plan.remarks == ()


def test_one_convention_in_other_digits_adds_nothing() -> None:
    told = {"old": HALVES, "new": aa.Statistics(mean=127.5, std=127.5, range=255)}
    assert (
        aa.adapt(Sees(), like=Old(), inputs=torch.zeros(1, 3, 8, 8), input_statistics=told).plan.inputs[0].steps == ()
    )


def test_a_model_of_timm_is_fed_what_its_weights_were_trained_on() -> None:
    x = torch.zeros(1, 3, 64, 64)
    new = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(0, 1))
    net = aa.adapt(new, like=timm.create_model("resnet18", features_only=True, out_indices=(0, 1)), inputs=x)
    assert net.plan.inputs[0].steps == (Renormalize(given=IMAGENET, wanted=HALVES.model_copy(update=_thirds())),)
    assert "input  x  f32[B, 3, H, W]  mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225\n" in str(net.plan)
    assert "\n                              -> mean 0.5, std 0.5\n" in str(net.plan)


def _thirds() -> dict[str, object]:
    return {"mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: torchvision.models.resnet18(), IMAGENET),
        (lambda: torchvision.models.squeezenet1_1(), IMAGENET),
        (lambda: torchvision.models.efficientnet_b0(num_classes=5), None),  # another network of the class takes 0.5
        (lambda: aa.load("torchvision:efficientnet_b0"), IMAGENET),
        (lambda: timm.create_model("vit_tiny_patch16_224", depth=1), HALVES.model_copy(update=_thirds())),
        (lambda: timm.create_model("resnet18", in_chans=4), None),
        (Old, None),
    ],
    ids=[
        "torchvision",
        "squeezenet",
        "efficientnet of unknown width",
        "efficientnet by name",
        "vit",
        "four channels",
        "own",
    ],
)
def test_statistics_are_told_where_they_can_be_known(model: object, expected: aa.Statistics | None) -> None:
    made = model()  # type: ignore[operator]
    channels = 4 if isinstance(made, timm.models.ResNet) else 3
    assert aa.capture(made, torch.zeros(1, channels, 224, 224, device="meta"), confirm=False).statistics == expected


def test_transformers_tell_what_the_processor_beside_their_weights_says(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    assert aa.capture(ViTModel(config), torch.zeros(1, 3, 32, 32)).statistics is None
    ViTModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    told = aa.capture(ViTModel.from_pretrained(tmp_path), torch.zeros(1, 3, 32, 32)).statistics
    assert told == aa.Statistics(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def test_unknown_statistics_on_one_side_are_a_remark_that_says_how_to_tell_them() -> None:
    net = aa.adapt(Sees(cfg(HALVES)), like=Old(), inputs=torch.zeros(1, 3, 32, 32))
    assert net.plan.inputs[0].steps == ()
    assert net.plan.remarks == (
        "input statistics of Old are unknown, Sees expects mean 0.5, std 0.5: "
        "input_statistics={'old': aa.Statistics(mean=..., std=...)} tells them",
    )


def test_statistics_that_may_not_be_converted_stay_and_a_remark_says_so() -> None:
    kinds = ("layout", "channels", "size")
    told = {"old": IMAGENET, "new": HALVES}
    x = torch.zeros(1, 3, 8, 8)
    net = aa.adapt(Sees(), like=Old(), inputs=x, input_statistics=told, convert_inputs=kinds)
    assert net.plan.inputs[0].steps == ()
    assert net.plan.remarks[0].startswith("input statistics stay as they are, since convert_inputs leaves them out")


def test_an_adapted_module_expects_what_the_old_one_did() -> None:
    net = aa.adapt(Sees(cfg(HALVES)), like=Old(), inputs=torch.zeros(1, 3, 32, 32), input_statistics=CAFFE)
    assert aa.capture(net, torch.zeros(1, 3, 32, 32)).statistics == CAFFE


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (aa.Statistics(mean=(0.5,) * 4, std=0.5), "statistics of 4 channels do not fit an image of 3"),
        ({"neu": HALVES}, "these are no statistics of images"),
        ("imagenet", "these are no statistics of images"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(told: object, message: str) -> None:
    with pytest.raises(aa.PlanError, match=message):
        aa.adapt(Sees(), like=Old(), inputs=torch.zeros(1, 3, 8, 8), input_statistics=told)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"std": 0}, "statistics.std"),
        ({"mean": float("nan")}, "statistics.mean"),
        ({"range": -1}, "statistics.range"),
        ({"mean": (1, 2, 3), "std": (1, 2)}, "as many numbers in mean as in std, or one"),
        ({"order": "gbr"}, "expected  'rgb' or 'bgr'; channels="),
        ({"sd": 1}, "expected  one of mean, std, range, order"),
        ({"mean": "0.5"}, "expected  a finite number for each channel, or one"),
        ({"mean": (True, 0.2, 0.3)}, "statistics.mean"),
        ({"range": "255"}, "statistics.range"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(wrong: dict[str, object], where: str) -> None:
    with pytest.raises(aa.SignatureError, match=where):
        aa.Statistics(**wrong)


def test_a_signature_carries_its_statistics_and_old_files_are_read(tmp_path: Path) -> None:
    known = aa.capture(Sees(cfg(HALVES)), torch.zeros(1, 3, 8, 8))
    known.save(tmp_path / "known.json")
    assert aa.Signature.load(tmp_path / "known.json").statistics == known.statistics
    assert "expects  mean 0.5, std 0.5" in str(known)
    unknown = aa.capture(Old(), torch.zeros(1, 3, 8, 8))
    assert "statistics" not in unknown.model_dump_json()  # as files of earlier versions have it
    assert known.diff(unknown) == []


def test_conversions_stand_before_the_weights_which_stay_shared_and_take_checkpoints_of_the_new_module() -> None:
    new, pixels = Sees(), torch.rand(2, 3, 16, 20)
    net = aa.adapt(new, like=Old(), inputs=pixels, input_statistics={"old": IMAGENET, "new": HALVES})
    assert net.backbone.conv.weight.data_ptr() == new.conv.weight.data_ptr()
    checkpoint = {name: tensor + 1 for name, tensor in new.state_dict().items()}
    net.backbone.load_state_dict(checkpoint)
    expected = nn.functional.conv2d(by_hand(pixels, HALVES), checkpoint["conv.weight"], checkpoint["conv.bias"], 4)
    torch.testing.assert_close(net(by_hand(pixels, IMAGENET)), expected, rtol=1e-5, atol=1e-5)


def test_saved_printed_and_exported_modules_convert_as_the_adapted_one(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 32, 32) * 50
    new = timm.create_model("resnet18", features_only=True, out_indices=(0, 1))
    net = aa.adapt(new, like=Old(), inputs=x, input_statistics=CAFFE).eval()
    assert len(net.plan.inputs[0].steps) == 1
    expected = net(x)
    aa.save(net, tmp_path / "saved")
    restored = aa.restore(tmp_path / "saved", timm.create_model("resnet18", features_only=True, out_indices=(0, 1)))
    assert restored.plan.source.statistics == IMAGENET
    assert torch.equal(restored.eval()(x), expected)
    aa.to_source(net, tmp_path / "plain.py")
    names: dict[str, object] = {}
    exec((tmp_path / "plain.py").read_text(), names)
    made = next(one for one in names.values() if isinstance(one, type) and issubclass(one, nn.Module))
    plain = made(timm.create_model("resnet18", features_only=True, out_indices=(0, 1))).eval()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(x), expected)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert torch.allclose(exported.module()(x[:1].repeat(3, 1, 1, 1)), expected[:1].repeat(3, 1, 1, 1), atol=1e-4)
