"""Necks of detectors give the levels that mmdet's give, and heads behind them take them by their place."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoadapt.assembly
from autoadapt.assembly import FPN, assemble
from autoadapt.errors import AssemblyError

INPUT = "f32[B, 3, 64, 64]"
CHANNELS = [3, 4, 5, 6]
NET: dict[str, Any] = {"type": "Stages", "out_indices": (0, 1, 2, 3)}
NECK: dict[str, Any] = {"type": "FPN", "in_channels": CHANNELS, "out_channels": 8, "num_outs": 4}
PARTS = autoadapt.assembly.PARTS.copy()


@PARTS.register("backbone")
class Stages(nn.Module):
    """Four stages at the strides 4 to 32; those that are named are returned, in that order."""

    def __init__(self, out_indices: Sequence[int]) -> None:
        super().__init__()
        self.out_indices = out_indices
        widths, steps = [3, *CHANNELS], [4, 2, 2, 2]
        pairs = zip(itertools.pairwise(widths), steps, strict=True)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, step, step) for (a, b), step in pairs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = [x := stage(x) for stage in self.stages]
        return tuple(found[index] for index in self.out_indices)


def made(**parts: Any) -> Any:
    return assemble({"input": INPUT, "backbone": NET, **parts}, registry=PARTS).eval()


def _convs(modules: nn.ModuleList) -> list[nn.Conv2d]:
    return [next(m for m in block.modules() if isinstance(m, nn.Conv2d)) for block in modules]


def published(
    neck: FPN, inputs: list[Tensor], source: str, start: int, stop: int, count: int, relu: bool
) -> list[Tensor]:
    """mmdet's `FPN.forward` on the weights of ours; `source` is what the first further convolution reads."""
    laterals = [conv(x) for conv, x in zip(_convs(neck.pyramid.inner_blocks), inputs[start:stop], strict=True)]
    for i in range(len(laterals) - 1, 0, -1):
        laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], laterals[i - 1].shape[2:], mode="nearest")
    outs = [conv(x) for conv, x in zip(_convs(neck.pyramid.layer_blocks), laterals, strict=True)]
    if not source:
        while len(outs) < count:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return outs
    x = {"on_input": inputs[stop - 1], "on_lateral": laterals[-1], "on_output": outs[-1]}[source]
    for i, conv in enumerate(_convs(neck.extra_convs)):
        assert (conv.stride, conv.padding, conv.kernel_size) == ((2, 2), (1, 1), (3, 3))
        x = conv(F.relu(x) if relu and i else x)
        outs.append(x)
    return outs


KINDS: dict[str, tuple[dict[str, Any], tuple[str, int, int], list[str]]] = {
    "all levels": ({}, ("", 0, 4), ["p2", "p3", "p4", "p5"]),
    "pooled beyond": ({"num_outs": 6}, ("", 0, 4), ["p2", "p3", "p4", "p5", "p6", "p7"]),
    "retinanet": (
        {"start_level": 1, "add_extra_convs": "on_input", "num_outs": 5},
        ("on_input", 1, 4),
        ["p3", "p4", "p5", "p6", "p7"],
    ),
    "said as true": (
        {"start_level": 1, "add_extra_convs": True, "num_outs": 5},
        ("on_input", 1, 4),
        ["p3", "p4", "p5", "p6", "p7"],
    ),
    "fcos": (
        {"start_level": 1, "add_extra_convs": "on_output", "num_outs": 5, "relu_before_extra_convs": True},
        ("on_output", 1, 4),
        ["p3", "p4", "p5", "p6", "p7"],
    ),
    "lateral": (
        {"start_level": 2, "add_extra_convs": "on_lateral", "num_outs": 3},
        ("on_lateral", 2, 4),
        ["p4", "p5", "p6"],
    ),
    "ends before": ({"end_level": 2, "num_outs": 3}, ("", 0, 3), ["p2", "p3", "p4"]),
    "ends at the last": ({"start_level": 1, "end_level": 3, "num_outs": 4}, ("", 1, 4), ["p3", "p4", "p5", "p6"]),
    "convolutions of none": (
        {"add_extra_convs": "on_input", "num_outs": 4},
        ("on_input", 0, 4),
        ["p2", "p3", "p4", "p5"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pyramid_gives_the_values_of_mmdets(kind: str) -> None:
    arguments, (source, start, stop), names = KINDS[kind]
    torch.manual_seed(0)
    neck = FPN(CHANNELS, 7, **arguments)
    inputs = [torch.randn(2, c, 17 >> i, 23 >> i) for i, c in enumerate(CHANNELS)]
    found = neck(inputs)
    relu = arguments.get("relu_before_extra_convs", False)
    expected = published(neck, inputs, source, start, stop, len(names), relu)
    assert list(found) == names
    for one, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(one, other)
    sum(level.sum() for level in found.values()).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


@pytest.mark.parametrize("on_lateral", [True, False])
def test_the_norm_of_a_pyramid_is_behind_each_of_its_convolutions_or_not_at_the_first(on_lateral: bool) -> None:
    neck = FPN(CHANNELS, 7, norm_cfg={"type": "BN", "eps": 0.1}, no_norm_on_lateral=not on_lateral, num_outs=5)
    norms = [m for m in neck.pyramid.inner_blocks.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 4 * on_lateral
    assert all((conv.bias is None) == on_lateral for conv in _convs(neck.pyramid.inner_blocks))
    behind = [m.eps for m in neck.pyramid.layer_blocks.modules() if isinstance(m, nn.BatchNorm2d)]
    assert behind == [0.1] * 4
    assert neck.eval()([torch.randn(1, c, 8 >> i, 8 >> i) for i, c in enumerate(CHANNELS)])["p6"].shape == (1, 7, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"start_level": 4}, "within 0 to 3, got 4 to -1"),
        ({"end_level": 1, "start_level": 2}, "within 0 to 3, got 2 to 1"),
        ({"end_level": 2, "num_outs": 5}, "num_outs is 3 where end_level is not the last level, got 5"),
        ({"num_outs": 3}, "num_outs is at least 4, one for each level, got 3"),
        ({"strides": (4, 8)}, "as many levels, got 4 and 2"),
        ({"strides": (4, 8, 8, 8)}, "of an octave each, got"),
    ],
)
def test_levels_that_a_pyramid_has_not_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FPN(CHANNELS, 7, **arguments)
    with pytest.raises(ValueError, match="takes 4 levels, one for each of in_channels, got 5"):
        FPN(CHANNELS, 7)([torch.zeros(1, c, 4, 4) for c in (*CHANNELS, 6)])


def test_a_head_behind_a_pyramid_takes_the_level_of_its_place() -> None:
    places = {0: "p2", 2: "p4", -1: "p6", -4: "p3", 4: "p6"}
    head = {"type": "DenseHead", "in_channels": 8, "num_classes": 2}
    heads = {level + str(index).replace("-", "b"): {**head, "in_index": index} for index, level in places.items()}
    model = made(neck={**NECK, "num_outs": 5}, head=heads)
    images = torch.rand(1, 3, 64, 64)
    found, levels = model(images), model.neck(model.backbone(images))
    for name, scores in found.items():
        torch.testing.assert_close(scores, getattr(model.head, name)(levels[name[:2]]))
    assert assemble(model.config, registry=PARTS).config == model.config


@pytest.mark.slow
def test_levels_before_the_pyramids_first_are_counted_for_the_backbone_alone() -> None:
    retina = {**NECK, "start_level": 1, "add_extra_convs": "on_input", "num_outs": 5}
    head = {"type": "FCNHead", "in_channels": 8, "in_index": 0, "channels": 4, "num_classes": 2}
    model = made(neck=retina, head=head)
    images = torch.rand(1, 3, 64, 64)
    levels = model.neck(model.backbone(images))
    assert {name: level.shape[2] for name, level in levels.items()} == {"p3": 8, "p4": 4, "p5": 2, "p6": 1, "p7": 1}
    torch.testing.assert_close(model(images), model.head(levels["p3"]))
    inputs = list(model.backbone(images))
    torch.testing.assert_close(list(levels.values()), published(model.neck, inputs, "on_input", 1, 4, 5, relu=False))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("typed", [{"in_channels": CHANNELS[1:]}, {}])
def test_a_pyramid_of_the_levels_that_the_config_names_has_their_strides(typed: dict[str, Any]) -> None:
    neck = {"type": "FPN", "out_channels": 8, "num_outs": 4, **typed}
    model = made(backbone={**NET, "out_indices": (1, 2, 3)}, neck=neck)
    images = torch.rand(1, 3, 64, 64)
    found = model(images)
    assert {name: level.shape[2] for name, level in found.items()} == {"p3": 8, "p4": 4, "p5": 2, "p6": 1}
    levels = list(model.backbone(images))
    torch.testing.assert_close(list(found.values()), published(model.neck, levels, "", 0, 3, 4, relu=False))
    assert model.report.plans == {}
    assert assemble(model.config, registry=PARTS).config == model.config


@pytest.mark.parametrize("index", [4, -5])
def test_a_level_beyond_the_last_is_refused_with_those_that_there_are(index: int) -> None:
    head = {"type": "FCNHead", "in_channels": 8, "in_index": index, "channels": 4, "num_classes": 2}
    with pytest.raises(AssemblyError, match=rf"a level of neck: p2, p3, p4, p5\n  found     `{index}`"):
        made(neck=NECK, head=head)


def test_the_last_level_by_index_is_the_last_though_another_is_coarser() -> None:
    """A decoder gives its finest level last."""
    head = {"type": "FCNHead", "in_channels": 4, "in_index": -1, "channels": 4, "num_classes": 2}
    model = made(backbone={**NET, "out_indices": (3, 1)}, head=head)
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 2, 8, 8)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("norm", [None, {"type": "GN", "num_groups": 4}])
def test_an_activation_of_null_is_none(norm: dict[str, Any] | None) -> None:
    """The neck of mmdet's DETRs says `act_cfg=None`."""
    neck = {"type": "ChannelMapper", "in_channels": CHANNELS, "kernel_size": 1, "out_channels": 8}
    model = made(neck={**neck, "act_cfg": None, "norm_cfg": norm, "num_outs": 5})
    found = model(torch.randn(1, 3, 64, 64))
    assert all(level.min() < 0 for level in found[:4])
    assert {type(m) for m in model.neck.modules()}.isdisjoint({nn.ReLU, nn.Identity})
    with_relu = made(neck=neck)(torch.randn(1, 3, 64, 64))
    assert all(level.min() == 0 for level in with_relu)


def test_necks_in_a_list_read_one_the_other_and_a_head_the_last() -> None:
    mapper = {"type": "ChannelMapper", "in_channels": [8] * 4, "out_channels": 6}
    heads = {
        "some": {"type": "DenseHead", "num_classes": 2, "in_index": 1},
        "all": {"type": "DenseHead", "num_classes": 3},
    }
    model = made(neck=[NECK, mapper], head=heads)
    images = torch.rand(1, 3, 64, 64)
    levels = model.neck.step2(tuple(model.neck.step1(model.backbone(images)).values()))
    found = model(images)
    torch.testing.assert_close(found["some"], model.head.some(levels[1]))
    torch.testing.assert_close(found["all"], model.head.all(levels))
    assert assemble(model.config, registry=PARTS).config == model.config
    single = made(neck=[NECK], head={**heads["some"], "in_channels": 8})
    torch.testing.assert_close(single(images), single.head(single.neck(single.backbone(images))["p3"]))


def test_an_argument_of_several_kinds_is_told_all_of_them() -> None:
    with pytest.raises(AssemblyError) as caught:
        made(neck={**NECK, "add_extra_convs": "on_inputs"})
    (fault,) = caught.value.mismatches
    assert fault.where == "neck.add_extra_convs"
    assert fault.expected == "True or False or 'on_input', 'on_lateral' or 'on_output'"


def test_a_pyramid_over_one_level_for_a_classifier_is_adapted_to_its_strides_as_ever() -> None:
    found = made(backbone={**NET, "out_indices": (3,)}, neck={"type": "FPN", "out_channels": 8})(
        torch.rand(1, 3, 64, 64)
    )
    assert list(found) == ["p2", "p3", "p4", "p5"]


def test_strides_of_something_else_are_left_to_their_part() -> None:
    parts = PARTS.copy()

    @parts.register("head")
    class Steps(nn.Module):
        def __init__(self, in_channels: int, strides: Sequence[int] = (1, 2)) -> None:
            super().__init__()
            self.convs = nn.Sequential(*(nn.Conv2d(in_channels, in_channels, 1, step) for step in strides))

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.convs(x)
            return scores

    head = assemble(
        {"input": INPUT, "backbone": NET, "head": {"type": "Steps", "from": "backbone.1"}}, registry=parts
    ).head
    assert [conv.stride for conv in head.convs] == [(1, 1), (2, 2)]


def test_levels_that_a_pyramid_is_given_by_name_have_their_strides() -> None:
    model = made(neck={"type": "FPN", "out_channels": 8, "from": ["backbone.c3", "backbone.c4"]})
    assert {name: level.shape[2] for name, level in model(torch.rand(1, 3, 64, 64)).items()} == {"p3": 8, "p4": 4}
