"""Pooled vectors: what the last layers of a classifier read serves them, however the head is built."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.capturing import capture

VECTOR = aa.Signature.parse("f32[B, 517]", inputs={"x": "f32[B, 3, H, W]"})

NAMED = {
    "resnetv2_18": "head.fc",
    "dpn48b": "classifier",
    "vgg11": "head.fc",
    "convnext_atto": "head.fc",
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


@pytest.mark.sampled(4)
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
