"""Pooled vectors: what the last layers of a classifier read serves them, however the head is built."""

from __future__ import annotations

import copy
import runpy

import pytest
import timm
import torch
import torch.nn.functional as F
from small_models import Pyramid
from torch import nn

import autoadapt as aa
from autoadapt.contracts.capturing import capture

VECTOR = aa.Signature.parse("f32[B, 517]", inputs={"x": "f32[B, 3, H, W]"})

NAMED = {
    "resnetv2_18": "head.fc",
    "vgg11": "head.fc",
    "convnext_atto": "head.fc",
    "dpn48b": "classifier",
    "deit_tiny_distilled_patch16_224": "head",
    "starnet_s1": "head",
    "beit_base_patch16_224": "head",
    "mobilenetv3_small_050": "classifier",
    "repghostnet_050": "classifier",
    "mobilenetv4_conv_small_035": "classifier",
    "ghostnet_050": "classifier",
    "hardcorenas_a": "classifier",
    "dla46x_c": "fc",
    "levit_128s": "head.linear",
    "efficientformer_l1": "head",
    "crossvit_tiny_240": "head.1",
    "resnet10t": "fc",
    "legacy_seresnet18": "last_linear",
    "regnety_002": "head.fc",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier",
    "lcnet_035": "classifier",
    "inception_v3": "fc",
    "xception41": "head.fc",
    "nfnet_f0": "head.fc",
    "hrnet_w18_small": "classifier",
    "swin_tiny_patch4_window7_224": "head.fc",
    "vit_tiny_patch16_224": "head",
    "cait_xxs24_224": "head",
    "xcit_nano_12_p16_224": "head",
    "mixer_s32_224": "head",
    "poolformer_s12": "head.fc",
    "efficientvit_b0": "head.classifier.4",
    "repvit_m0_9": "head.head.l",
    "volo_d1_224": "head",
    "davit_tiny": "head.fc",
    "shvit_s1": "head.l",
    "pit_ti_224": "head",
    "inception_next_atto": "head.fc2",
}
"""A classifier of each of 39 families, with the layer that makes the scores: of several heads the one that reads most,
or the first. Many are more than one linear layer behind the pooling."""


def route(model: nn.Module, size: int) -> tuple[aa.Signature, object]:
    signature = capture(model, torch.empty(2, 3, size, size, device="meta"), inner=True)
    return signature, aa.plan(signature, VECTOR).routes[0]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", NAMED)
def test_a_pooled_vector_is_what_the_layer_of_the_scores_reads(name):
    with torch.device("meta"):
        model = timm.create_model(name).eval()
    size = model.default_cfg["input_size"][-1]
    read = {}
    model.get_submodule(NAMED[name]).register_forward_pre_hook(lambda _module, args: read.update(x=args[0]))
    noted = {}
    _, served = route(model, size)
    module, _, call = served.source.partition("@")
    calls = []
    model.get_submodule(module).register_forward_hook(lambda _module, _args, out: calls.append(out))
    noted["x"] = model(torch.empty(2, 3, size, size, device="meta"))
    taken = calls[int(call or 0)]
    assert taken is read["x"] or read["x"]._base is taken


class Heads(nn.Module):
    """Two heads over the mean of the features, whose scores are averaged."""

    def __init__(self, view: bool = False) -> None:
        super().__init__()
        self.stem, self.drop = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Dropout()
        self.first, self.second = nn.Linear(6, 9), nn.Linear(6, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.stem(x)
        first, second = self.drop(features.mean((2, 3))), self.drop(features.amax((2, 3)))
        return (self.first(first) + self.second(second)) / 2


def test_of_several_heads_the_first_tells_what_is_read():
    torch.manual_seed(0)
    model, x = Heads().eval(), torch.randn(2, 3, 16, 16)
    net = aa.adapt(model, like=VECTOR, inputs=x)
    assert net.plan.routes[0].source == "drop"
    assert torch.equal(net.backbone(x)[0], model.stem(x).mean((2, 3)))


@pytest.mark.parametrize("last", [nn.ReLU(), nn.Tanh()])
def test_an_activation_behind_a_flattened_convolution_makes_it_a_layer_of_its_own(last):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 6, 1), last, nn.Flatten())
    net = aa.adapt(model, like=VECTOR, inputs=torch.zeros(2, 3, 16, 16))
    assert net.plan.routes[0].source == "output"


def test_a_flattened_last_convolution_of_one_cell_is_looked_through():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 6, 1), nn.Flatten()).eval()
    x = torch.randn(2, 3, 16, 16)
    net = aa.adapt(model, like=VECTOR, inputs=x)
    assert net.plan.routes[0].source == "1"
    assert torch.equal(net.backbone(x)[0], model[:2](x))


class Probabilities(nn.Module):
    """Scores and what they are made of, as detectors' classification models return them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.fc(self.body(x).mean((2, 3)))
        return scores.softmax(1), scores


def test_a_classifier_may_return_probabilities_beside_the_scores() -> None:
    net = aa.adapt(Probabilities(), like=["f32[B, 8, ceil(H/4), ceil(W/4)]"], inputs=torch.zeros(1, 3, 64, 64))
    assert [route.source for route in net.plan.routes] == ["body"]


class PooledByFunctions(nn.Module):
    """Averages its cells by a function, or takes their first, before one linear layer or several."""

    def __init__(self, head: nn.Module, *, first: bool = False) -> None:
        super().__init__()
        self.stem, self.head, self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1), head, first

    def read(self, x: torch.Tensor) -> torch.Tensor:
        cells = self.stem(x)
        return cells.flatten(2)[..., 0] if self.first else F.adaptive_avg_pool2d(F.relu(cells), 1).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.read(x))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("head", "tap"),
    [
        (lambda: nn.Linear(6, 9), "head:inputs.0"),
        (lambda: nn.Sequential(nn.Linear(6, 9)), "head.0:inputs.0"),
        (lambda: nn.Sequential(nn.Dropout(), nn.Linear(6, 9)), "head.0"),
    ],
)
def test_what_a_function_pools_is_tapped_where_the_last_layer_reads_it_and_that_layer_is_cut(head, tap, first):
    torch.manual_seed(0)
    model, x = PooledByFunctions(head(), first=first).eval(), torch.randn(2, 3, 16, 16)
    net = aa.adapt(model, like=VECTOR, inputs=x)
    assert net.plan.routes[0].source == tap
    assert torch.equal(net.backbone(x)[0], model.read(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    assert {name for name, _ in net.backbone.named_parameters()} == {"stem.weight", "stem.bias"}
    assert model.head(model.read(x)).shape == (2, 9), "the model itself keeps its head"
    assert net.verify(x).passed


def test_what_a_function_pools_is_tapped_in_a_file_of_its_own_too(tmp_path):
    model, x = PooledByFunctions(nn.Linear(6, 9)).eval(), torch.randn(2, 3, 16, 16)
    net = aa.adapt(model, like=VECTOR, inputs=x)
    aa.to_source(net, tmp_path / "pooled.py")
    made = runpy.run_path(str(tmp_path / "pooled.py"))["Adapted"](copy.deepcopy(model))
    made.load_state_dict(net.state_dict())
    assert torch.equal(made.eval()(x), net.eval()(x))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "head", [nn.Conv2d(16, 9, 1), nn.Sequential(nn.Conv2d(16, 20, 1), nn.ReLU(), nn.Conv2d(20, 9, 1))]
)
def test_of_a_head_that_slides_the_last_map_before_its_pooling_is_averaged_not_the_first(head):
    trunk = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 16, 1)
    )
    model = nn.Sequential(trunk, nn.AvgPool2d(8, stride=1), head, nn.Flatten()).eval()
    x = torch.randn(2, 3, 32, 32)
    net = aa.adapt(model, like=VECTOR, inputs=x)
    assert torch.equal(net.backbone(x)[0], trunk(x))
    assert net.plan.kept is not None
    assert net.plan.kept.share == 1


def test_of_a_pyramid_the_deepest_level_is_averaged():
    net = aa.adapt(Pyramid(4, 8, 16).eval(), like=VECTOR, inputs=torch.randn(2, 3, 32, 32))
    assert net.plan.routes[0].source == net.plan.source.outputs.paths[-1]


def test_a_map_and_its_pooled_vector_come_from_one_classifier():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            cells = self.stem(x)
            return cells, cells.mean((2, 3))

    model = PooledByFunctions(nn.Sequential(nn.Dropout(), nn.Linear(6, 9))).eval()
    net = aa.adapt(model, like=Both(), inputs=torch.randn(2, 3, 16, 16))
    assert [route.source for route in net.plan.routes] == ["stem", "head.0"]


class Averaged(nn.Module):
    """Averages what its last 1x1 convolution makes, and flattens it by a function, as SqueezeNet does."""

    num_classes = 9

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.head = nn.Sequential(nn.Dropout(), layer, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(x)).flatten(1)


def test_scores_that_are_averaged_after_the_last_layer_are_no_features():
    model, x = Averaged(nn.Conv2d(6, 9, 1)).eval(), torch.randn(2, 3, 16, 16)
    net = aa.adapt(model, like=VECTOR, inputs=x)
    assert net.plan.routes[0].source == "head.0"
    assert torch.equal(net.backbone(x)[0], model.stem(x))


def test_what_a_larger_convolution_makes_of_the_last_map_is_taken_with_it():
    net = aa.adapt(Averaged(nn.Conv2d(6, 9, 3, padding=1)).eval(), like=VECTOR, inputs=torch.randn(2, 3, 16, 16))
    assert net.plan.routes[0].source == "output"
