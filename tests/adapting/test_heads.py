"""Heads: what only they ask for does not bind the feature maps, and the scores that they make are no features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.errors import MatchError, PlanError


class OfOneSize(nn.Module):
    """A classifier that pools 4 x 4 cells, as many as an image of 64 x 64 has."""

    def __init__(self, *, linear: bool) -> None:
        super().__init__()
        self.num_classes = 10
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 8, 4, 4), nn.ReLU())
        self.pool = nn.AvgPool2d(4, stride=1)
        self.output = nn.Linear(8, 10) if linear else nn.Conv2d(8, 10, 1)
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.body(self.stem(x)))
        return self.output(x.flatten(1)) if self.linear else self.output(x).flatten(1)


LEVELS = aa.Signature.parse(
    ["f32[B, 4, floor(H/4), floor(W/4)]", "f32[B, 8, floor(H/16), floor(W/16)]"], inputs="f32[B, 3, H, W]"
)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("linear", [True, False])
def test_a_pooling_of_fixed_size_does_not_make_the_feature_maps_ask_for_that_size(linear: bool) -> None:
    model = OfOneSize(linear=linear).eval()
    net = aa.adapt(model, like=LEVELS, inputs=torch.zeros(1, 3, 64, 64))
    assert all(not route.steps for route in (*net.plan.inputs, *net.plan.routes))
    for size in ((64, 64), (33, 50), (96, 130)):
        x = torch.randn(2, 3, *size)
        first, second = net(x)
        assert torch.equal(first, model.stem(x))
        assert torch.equal(second, model.body(model.stem(x)))
    assert net.plan.kept is not None
    assert net.plan.kept.share == 1
    aa.verify(net, LEVELS).raise_if_failed()


def test_what_the_head_returns_is_had_at_the_one_size_that_it_takes() -> None:
    model = OfOneSize(linear=True).eval()
    net = aa.adapt(model, like=aa.Signature.parse("f32[B, 10]", inputs="f32[B, 3, H, W]"))
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(net(x), model(x))
    assert net(torch.randn(2, 3, 40, 50)).shape == (2, 10)


class Sliding(nn.Module):
    """Scores of a head that slides over a larger image, of which one axis fits no form: cells times classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
        self.pool = nn.AvgPool2d(16, stride=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.pool(self.body(x)).flatten(1)
        return scores[:, : scores.shape[1] // 3 * 2 + scores.shape[1] ** 2 % 7]


def test_an_output_that_no_form_explains_does_not_stand_in_the_way_of_feature_maps() -> None:
    model = Sliding().eval()
    contract = aa.Signature.parse("f32[B, 8, floor(H/4), floor(W/4)]", inputs="f32[B, 3, H, W]")
    net = aa.adapt(model, like=contract, inputs=torch.zeros(1, 3, 64, 64))
    x = torch.randn(2, 3, 37, 50)
    assert torch.equal(net(x), model.body(x))


class Segmenter(nn.Module):
    """Maps of class scores, beside the features that they are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.num_labels = 6
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.classifier = nn.Conv2d(8, 6, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.classifier(self.body(x))}


def test_class_scores_serve_no_feature_map() -> None:
    model = Segmenter().eval()
    for channels in (6, 8):
        contract = aa.Signature.parse(f"f32[B, {channels}, floor(H/4), floor(W/4)]", inputs="f32[B, 3, H, W]")
        net = aa.adapt(model, like=contract, inputs=torch.zeros(1, 3, 64, 64))
        assert net.plan.routes[0].source == "body"


def test_class_scores_serve_class_scores() -> None:
    model = Segmenter().eval()
    net = aa.adapt(model, like=aa.capture(Segmenter(), torch.zeros(1, 3, 64, 64)))
    x = torch.randn(2, 3, 40, 40)
    assert torch.equal(net(x)["logits"], model(x)["logits"])


def test_class_scores_alone_are_refused_as_features() -> None:
    new = aa.Signature.parse({"logits": "f32[B, 6, floor(H/4), floor(W/4)]"}, inputs="f32[B, 3, H, W]")
    old = aa.Signature.parse("f32[B, 6, floor(H/4), floor(W/4)]", inputs="f32[B, 3, H, W]")
    with pytest.raises(MatchError, match="class scores are no features"):
        aa.plan(new.model_copy(update={"scores": ("logits",)}), old)


class Cache:
    """An object beside tensors, as transformers' caches of keys and values are."""


@dataclass
class Answer:
    hidden: torch.Tensor
    cache: Any = None


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Answer:
        return Answer(self.layer(x), Cache())


class Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": self.layer(x)}


def test_an_object_beside_the_tensors_that_are_read_does_not_block_them() -> None:
    new, x = Remembering(), torch.randn(2, 5, 4)
    assert torch.equal(aa.adapt(new, like=Forgetful(), inputs=x)(x)["hidden"], new(x).hidden)


def test_an_object_that_the_old_module_returns_is_refused_unless_it_is_left_out() -> None:
    new, x = Forgetful(), torch.randn(2, 5, 4)
    with pytest.raises(PlanError, match="cannot look into") as refused:
        aa.adapt(new, like=Remembering(), inputs=x)
    assert "outputs=['hidden']" in str(refused.value)
    assert torch.equal(aa.adapt(new, like=Remembering(), inputs=x, outputs=["hidden"])(x).hidden, new(x)["hidden"])


class InOne(nn.Module):
    """The pooling of fixed size stands inside the module that makes the features."""

    def __init__(self) -> None:
        super().__init__()
        body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.features = nn.Sequential(body, nn.AvgPool2d(16, stride=1))
        self.output = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.features(x).flatten(1))


def test_what_comes_out_behind_the_pooling_is_not_taken_for_what_goes_into_it() -> None:
    model = InOne().eval()
    contract = aa.Signature.parse("f32[B, 8, floor(H/4), floor(W/4)]", inputs="f32[B, 3, H, W]")
    net = aa.adapt(model, like=contract, inputs=torch.zeros(1, 3, 64, 64))
    x = torch.randn(2, 3, 37, 50)
    assert torch.equal(net(x), model.features[0](x))
