"""Images prepared by one library's own code, converted to what another library's code makes of the same pixels."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import huggingface_hub
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
import transformers
from guests import guest
from PIL import Image
from torch import nn
from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

import autoadapt as aa
from autoadapt.contracts.capturing.told_statistics import processor_statistics, told_statistics

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
"""A picture, RGB."""


class Side(NamedTuple):
    """A model of a library, and what that library makes of a picture for it."""

    model: nn.Module
    prepare: Callable[[], torch.Tensor]


class Sees(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, stride=8)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.conv(x)


def of_timm(_: Path) -> Side:
    model = timm.create_model("tf_efficientnet_lite0")
    told = timm.data.resolve_data_config({}, model=model)
    transforms = torchvision.transforms
    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize(told["mean"], told["std"])])
    return Side(model, lambda: prepare(PIXELS)[None])


def of_torchvision(_: Path) -> Side:
    prepare = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=64, resize_size=64)
    return Side(torchvision.models.resnet18(), lambda: prepare(torch.from_numpy(PIXELS).movedim(-1, 0))[None])


def of_transformers(folder: Path) -> Side:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], do_resize=False).save_pretrained(folder)
    prepare = ViTImageProcessor.from_pretrained(folder)
    return Side(ResNetModel.from_pretrained(folder), lambda: prepare(PIXELS, return_tensors="pt")["pixel_values"])


def of_smp(folder: Path) -> Side:
    """An encoder whose settings lie in the cache: BGR, 0 to 255, as weights that came from Caffe have them."""
    told = {"mean": [103.5, 116.3, 123.7], "std": [1.0, 2.0, 3.0], "input_space": "BGR", "input_range": [0, 255]}
    for setting in smp.encoders.encoders["resnet18"]["pretrained_settings"].values():
        cached = folder / f"models--{setting['repo_id'].replace('/', '--')}" / "snapshots" / setting["revision"]
        cached.mkdir(parents=True)
        (cached / "config.json").write_text(json.dumps(told))
    model = smp.Unet("resnet18", encoder_weights=None)
    prepare = smp.encoders.get_preprocessing_fn("resnet18")
    return Side(model, lambda: torch.from_numpy(prepare(PIXELS.astype(np.float32)).copy()).movedim(-1, 0)[None])


def of_torchvision_detection(_: Path) -> Side:
    """Normalises by itself, and takes what `to_tensor` makes."""
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    return Side(model, lambda: torchvision.transforms.functional.to_tensor(PIXELS)[None])


def of_ultralytics(_: Path) -> Side:
    model = guest("ultralytics.nn.tasks").ClassificationModel("yolov8n-cls.yaml", verbose=False)
    prepare = guest("ultralytics.engine.predictor").BasePredictor.preprocess
    owner = SimpleNamespace(pre_transform=list, device="cpu", model=SimpleNamespace(fp16=False))
    opencv = np.ascontiguousarray(PIXELS[:, :, ::-1])  # which reads pictures as BGR
    return Side(model, lambda: prepare(owner, [opencv]))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (of_transformers, of_torchvision),
        (of_smp, of_timm),
        (of_torchvision_detection, of_smp),
        (of_timm, of_transformers),
        (of_torchvision, of_timm),
        pytest.param(of_ultralytics, of_timm, marks=pytest.mark.guest),
    ],
    ids=lambda side: side.__name__.removeprefix("of_"),
)
def test_what_one_library_prepares_is_converted_to_what_the_other_would_have_made(
    old: Callable[[Path], Side], new: Callable[[Path], Side], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    sides = {"old": old(tmp_path), "new": new(tmp_path)}
    given, expected = (side.prepare().float() for side in sides.values())
    told = {name: told_statistics(side.model) for name, side in sides.items()}
    net = aa.adapt(Sees(), like=nn.Conv2d(3, 4, 8, stride=8), inputs=given, input_statistics=told)  # type: ignore[arg-type]
    assert [step.op for step in net.plan.inputs[0].steps] == ["renormalize"]
    with torch.no_grad():
        net.eval()(given)
    found = net.backbone.seen[-1]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


COLOUR = (200, 100, 30)


def processed(kind: type, folder: Path) -> tuple[np.ndarray, aa.Statistics | None]:
    """What an image processor makes of one colour, and what its file says that it does."""
    processor = kind(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    processor.save_pretrained(folder)
    values = processor(images=Image.new("RGB", (224, 224), COLOUR), return_tensors="np")["pixel_values"]
    middle = np.moveaxis(np.asarray(values, dtype=np.float64).reshape(-1, *values.shape[-3:])[0], 0, -1)
    told = json.loads((folder / "preprocessor_config.json").read_text())
    return middle[middle.shape[0] // 2, middle.shape[1] // 8], processor_statistics(told)


def as_told(told: aa.Statistics) -> np.ndarray:
    mean, std = told.of(3)
    colour = COLOUR[::-1] if told.order == "bgr" else COLOUR
    return (np.array(colour) * told.range / 255 - mean) / std


@pytest.mark.parametrize("name", ["EfficientNet", "Vivit", "Tvp", "ViT"])
def test_image_processors_of_transformers_do_what_is_read_from_their_files(name: str, tmp_path: Path) -> None:
    found, told = processed(getattr(transformers, f"{name}ImageProcessor"), tmp_path)
    assert told is not None
    np.testing.assert_allclose(as_told(told), found, atol=0.02)


@pytest.mark.parametrize("name", ["MobileViT", "PPLCNet"])  # one is not normalised, the other reversed
def test_a_file_that_leaves_out_what_the_class_does_tells_nothing(name: str, tmp_path: Path) -> None:
    assert processed(getattr(transformers, f"{name}ImageProcessor"), tmp_path)[1] is None


def test_an_efficientnet_that_only_divides_is_read_so() -> None:
    told = processor_statistics({"do_normalize": False, "include_top": True, "image_std": [0.1, 0.2, 0.5]})
    assert told == aa.Statistics(mean=0.0, std=(0.1, 0.2, 0.5))


@pytest.mark.slow
def test_no_image_processor_of_transformers_does_other_things_than_are_read_from_its_file(tmp_path: Path) -> None:
    listed = guest("transformers.models.auto.image_processing_auto").IMAGE_PROCESSOR_MAPPING_NAMES.values()
    names = {name for kinds in listed for name in (kinds.values() if isinstance(kinds, dict) else kinds) if name}
    runs = dict[str, tuple[np.ndarray, aa.Statistics | None]]()
    for name in names:
        with contextlib.suppress(Exception):  # it needs other packages, pairs of pictures, or makes no pictures
            runs[name] = processed(getattr(transformers, name), tmp_path)
    told = {name: (found, as_told(one)) for name, (found, one) in runs.items() if one and found.shape == (3,)}
    wrong = [name for name, (found, expected) in told.items() if np.abs(found - expected).max() > 0.02]
    assert len(told) > 80
    assert not wrong


@pytest.mark.parametrize(("name", "mean"), [("swin_t", 0.485), ("efficientnet_b0", 0.485), ("efficientnet_v2_l", 0.5)])
def test_torchvision_tells_the_weights_of_as_many_parameters(name: str, mean: float) -> None:
    with torch.device("meta"):
        told = told_statistics(torchvision.models.get_model(name))
    assert told is not None
    assert told.mean[0] == mean


def test_an_encoder_of_smp_tells_the_settings_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    encoder = of_smp(tmp_path).model.encoder
    told = aa.Statistics(mean=(103.5, 116.3, 123.7), std=(1, 2, 3), order="bgr", range=255)
    assert told_statistics(encoder) == told
    (other,) = smp.encoders.encoders["resnet34"]["pretrained_settings"].values()
    cached = tmp_path / f"models--{other['repo_id'].replace('/', '--')}" / "snapshots" / other["revision"]
    cached.mkdir(parents=True)
    (cached / "config.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3}))
    assert told_statistics(encoder) is None  # of which of the two it is nobody knows
    assert told_statistics(smp.Unet("resnet18", encoder_weights=None)) == told  # which knows the encoder's name
