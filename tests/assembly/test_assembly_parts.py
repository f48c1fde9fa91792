"""Parts are registered by one decorator, say what they take by annotation, and compute what torch computes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.assembly import (
    FPN,
    CrossEntropyLoss,
    DenseHead,
    GlobalAveragePooling,
    L1Loss,
    LinearClsHead,
    MLPHead,
    Registry,
    ResNetCIFAR,
    SmoothL1Loss,
    VisionTransformerClsHead,
    assemble,
    losses,
)
from autoadapt.assembly.losses import reduced
from autoadapt.assembly.registry import takes_of
from autoadapt.contracts.capturing import capture
from autoadapt.errors import AssemblyError


@pytest.mark.parametrize(("hidden", "widths"), [(None, [8, 3]), (16, [8, 16, 16, 3])])
def test_a_head_on_a_class_token_is_as_wide_inside_as_asked(hidden, widths):
    layers = VisionTransformerClsHead(8, 3, hidden_dim=hidden).layers
    assert [n for one in layers if isinstance(one, nn.Linear) for n in (one.in_features, one.out_features)] == widths


def test_a_name_is_registered_once() -> None:
    registry = Registry()

    @registry.register("neck", "Pool")
    class First(nn.Module):
        pass

    registry.register("neck", "Pool")(First)  # the very same again is no harm
    with pytest.raises(AssemblyError, match="there is a neck named Pool already") as caught:
        registry.register("neck", "Pool")(type("Second", (nn.Module,), {}))
    assert 'try       @register("neck", name="Pool2")' in str(caught.value)
    second = registry.register("neck", "Pool", replace=True)(type("Second", (nn.Module,), {}))
    found = registry.get("neck", "Pool")
    assert found is not None
    assert found.make is second


def test_an_unknown_group_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        AssemblyError,
        match=r"expected  preprocessor, backbone, neck, head, loss\n  found     'necks'\n  try       neck",
    ):
        Registry().register("necks")  # type: ignore[arg-type]


def test_a_registry_can_be_copied() -> None:
    registry = Registry()
    copied = registry.copy()
    copied.register("head")(nn.Identity)
    assert (registry.names("head"), copied.names("head")) == ([], ["Identity"])


def test_what_a_part_takes_follows_from_the_annotations_of_its_forward() -> None:
    def part(annotation: Any) -> type[nn.Module]:
        class Made(nn.Module):
            def forward(self, x: Any, scale: float = 1.0) -> Any:
                return x

        Made.forward.__annotations__ = {"x": annotation}
        return Made

    for annotation, expected in [
        (torch.Tensor, "one"),
        (list[torch.Tensor], "list"),
        (Sequence[torch.Tensor], "list"),
        (tuple[torch.Tensor, ...], "tuple"),
        (dict[str, torch.Tensor], "dict"),
        (torch.Tensor | list[torch.Tensor], "any"),
        (Any, "any"),
        (str, "any"),
    ]:
        assert takes_of(part(annotation)) == (expected,)


def test_a_function_that_says_what_it_returns_is_a_part() -> None:
    registry = Registry()

    @registry.register("head")
    def doubled(in_channels: int, width: int = 3) -> nn.Conv2d:
        return nn.Conv2d(in_channels, 2 * width, 1)

    text = "input: f32[B, 3, 16, 16]\nbackbone: 'timm:resnet18'\nhead: {type: doubled, width: 4}\n"
    model = assemble(text, registry=registry)
    assert model.config.head[""].arguments == {"width": 4, "in_channels": 512}
    assert model.eval()(torch.zeros(1, 3, 16, 16)).shape[1] == 8


def test_a_part_that_gives_no_module_is_refused() -> None:
    registry = Registry()
    registry.register("backbone", "nothing")(lambda: 3)
    with pytest.raises(AssemblyError, match=r"nothing gives a int"):
        assemble({"backbone": "nothing"}, registry=registry)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_are_those_of_torch_times_their_weight(reduction: Any) -> None:
    torch.manual_seed(0)
    scores, classes = torch.randn(4, 5, 3), torch.randint(5, (4, 3))
    classes[0, 0] = -100
    left, right = torch.randn(4, 5), torch.randn(4, 5)
    pairs = [
        (CrossEntropyLoss(2.0, reduction)(scores, classes), F.cross_entropy(scores, classes, reduction=reduction)),
        (L1Loss(2.0, reduction)(left, right), F.l1_loss(left, right, reduction=reduction)),
        (
            SmoothL1Loss(2.0, reduction, beta=0.5)(left, right),
            F.smooth_l1_loss(left, right, reduction=reduction, beta=0.5),
        ),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, 2.0 * expected)


def test_cross_entropy_takes_probabilities_and_smooths_labels() -> None:
    scores, probabilities = torch.randn(4, 5), torch.rand(4, 5).softmax(1)
    torch.testing.assert_close(CrossEntropyLoss()(scores, probabilities), F.cross_entropy(scores, probabilities))
    classes = torch.tensor([0, 1, 2, 3])
    found = CrossEntropyLoss(label_smoothing=0.1)(scores, classes)
    torch.testing.assert_close(found, F.cross_entropy(scores, classes, label_smoothing=0.1))


def test_an_averaging_factor_takes_the_place_of_the_count() -> None:
    left, right, weight = torch.tensor([1.0, 4.0]), torch.zeros(2), torch.tensor([1.0, 0.5])
    assert L1Loss()(left, right, weight, avg_factor=3.0).item() == 1.0
    assert L1Loss()(left, right, weight).item() == 1.5
    with pytest.raises(ValueError, match='avg_factor goes with reduction="mean"'):
        reduced(left, "sum", avg_factor=2.0)


def test_losses_do_not_broadcast_in_silence() -> None:
    for loss in (L1Loss(), SmoothL1Loss()):
        with pytest.raises(ValueError, match=r"prediction \[4, 1\] and target \[4\] differ in shape"):
            loss(torch.zeros(4, 1), torch.zeros(4))


def test_pooling_is_the_mean_over_cells() -> None:
    features_BCHW = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(GlobalAveragePooling()(features_BCHW), features_BCHW.mean((2, 3)))


def test_a_pyramid_is_that_of_torchvision() -> None:
    from torchvision.ops import FeaturePyramidNetwork

    levels = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)]
    ours, theirs = FPN([4, 6], 5, strides=[4, 8]), FeaturePyramidNetwork([4, 6], 5)
    theirs.load_state_dict(ours.pyramid.state_dict())
    expected = theirs(dict(zip(["p2", "p3"], levels, strict=True)))
    found = ours(levels)
    assert list(found) == ["p2", "p3"]
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_heads_predict_vectors_or_every_cell() -> None:
    assert LinearClsHead(6, 3)(torch.zeros(2, 6)).shape == (2, 3)
    assert MLPHead(6, 3, hidden_channels=[4, 5])(torch.zeros(2, 6)).shape == (2, 3)
    dense, map_BCHW = DenseHead(6, 3), torch.zeros(2, 6, 4, 4)
    assert dense(map_BCHW).shape == (2, 3, 4, 4)
    assert [tuple(level.shape) for level in dense([map_BCHW])] == [(2, 3, 4, 4)]
    assert list(dense({"p2": map_BCHW})) == ["p2"]
    for head in (LinearClsHead(4, 3), MLPHead(4, 3)):
        with pytest.raises(ValueError, match=r"takes vectors \[B, D\], got \[2, 6, 4, 4\]"):
            head(map_BCHW)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_cifar_resnet_keeps_every_pixel_at_every_depth(depth: Any) -> None:
    with torch.device("meta"):
        net = ResNetCIFAR(depth, in_channels=1)
    widths = [64, 128, 256, 512] if depth < 50 else [256, 512, 1024, 2048]
    shapes = [tuple(level.shape) for level in net(torch.empty(2, 1, 32, 32, device="meta"))]
    assert shapes == [(2, width, size, size) for width, size in zip(widths, (32, 16, 8, 4), strict=True)]
    blocks = sum(len(stage) for stage in (net.layer1, net.layer2, net.layer3, net.layer4))
    assert blocks * (2 if depth < 50 else 3) + 2 == depth
    assert not any(isinstance(module, nn.MaxPool2d) for module in net.modules())


def test_the_cifar_resnet_at_any_size() -> None:
    signature = capture(ResNetCIFAR(18), torch.empty(2, 3, 32, 32, device="meta"))
    assert [str(leaf) for leaf in signature.outputs.leaves][-1] == "f32[B, 512, ceil(H/8), ceil(W/8)]"
    assert all(sizes.step == 1 for sizes in signature.axes.values())


def test_names_of_parts_are_as_documented() -> None:
    from autoadapt.assembly import PARTS

    names = list(itertools.chain(*(PARTS.names(group) for group in ("neck", "head", "loss"))))
    for name in ("FPN", "GlobalAveragePooling", "Identity", "LinearClsHead", "MLPHead", "DenseHead", "L1Loss"):
        assert name in names
    assert "ResNet_CIFAR" in PARTS.names("backbone")


@pytest.mark.parametrize("kind", ["CrossEntropyLoss", "L1Loss", "SmoothL1Loss", "FocalLoss"])
def test_a_weight_for_each_sample_weighs_samples_also_where_an_axis_is_as_long(kind: str) -> None:
    loss = getattr(losses, kind)(reduction="none")
    prediction = torch.randn(2, 2, 2)
    target = torch.tensor([[0, 1], [1, 0]]) if kind == "CrossEntropyLoss" else torch.rand(2, 2, 2)
    weighed, plain = loss(prediction, target, torch.tensor([1.0, 0.0])), loss(prediction, target)
    assert torch.equal(weighed[0], plain[0])
    assert not weighed[1].any()
