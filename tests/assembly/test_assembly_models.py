"""A model is what its config says: parts that fit, whatever the backbone, and a config that gives it back."""

from __future__ import annotations

import copy
import io
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from assembled_configs import POOL, _config
from torch import nn

from autoadapt.assembly import AssembledModel, Config, Registry, assemble, describe, write_yaml
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.trees import flatten
from autoadapt.errors import AssemblyError

BACKBONES = (
    "timm:resnet18",
    "timm:resnet50, layers: [1, 2, 2, 1]",
    "timm:mobilenetv2_050",
    "timm:mobilenetv3_small_050",
    "timm:efficientnet_b0",
    "timm:convnext_atto",
    "timm:swin_tiny_patch4_window7_224, depths: [1, 1, 2, 1]",
    "timm:vit_tiny_patch16_224, depth: 4",
    "timm:regnety_002",
    "timm:densenet121, block_config: [2, 2, 2, 2]",
    "timm:hrnet_w18_small",
    "ResNet_CIFAR",
)

PYRAMID = """
input: f32[B, 3, 64, 64]
backbone: {type: BACKBONE}
neck: {type: FPN, out_channels: 16}
head: {type: DenseHead, num_classes: 4, from: neck.p2}
loss: {type: CrossEntropyLoss}
"""

BOTH = """
input: f32[B, 3, 64, 64]
targets: {label: "i64[B]", cells: "i64[B, 16, 16]"}
backbone: {type: BACKBONE}
neck:
  pool: {type: GlobalAveragePooling}
  fpn: {type: FPN, out_channels: 16}
head:
  label: {type: LinearClsHead, num_classes: 10, from: neck.pool}
  cells: {type: DenseHead, num_classes: 4, from: neck.fpn.p2}
loss: {label: CrossEntropyLoss, cells: {type: CrossEntropyLoss, loss_weight: 0.5}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_changing_only_the_backbone_runs_for_pooled_and_dense_heads(backbone: str) -> None:
    model = assemble(_config(BOTH, backbone))
    images = torch.randn(2, 3, 64, 64)
    targets = {"label": torch.tensor([1, 2]), "cells": torch.randint(4, (2, 16, 16))}
    losses = model(images, targets)
    torch.stack([*losses.values()]).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()

    assert set(losses) == {"label", "cells"}
    untrained = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert all(name.startswith("neck.fpn.pyramid.layer_blocks.") for name in untrained)  # of levels that no head takes
    model.eval()
    with torch.no_grad():
        outputs = model(images)
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "label": (2, 10),
        "cells": (2, 4, 16, 16),
    }
    assert _round_trips(model)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("text", [POOL, PYRAMID])
@pytest.mark.parametrize("backbone", ["timm:resnet18", "timm:vit_tiny_patch16_224", "ResNet_CIFAR"])
def test_a_resolved_config_assembles_to_the_same_model(text: str, backbone: str) -> None:
    assert _round_trips(assemble(_config(text, backbone)))


@pytest.mark.slow
def test_a_resolved_config_says_where_cells_lie_and_they_come_to_lie_there() -> None:
    dense = (
        "input: f32[B, 3, 64, 64]\nbackbone: timm:resnet18\nhead: {type: DenseHead, num_classes: 4, from: backbone.c3}"
    )
    model = assemble(dense)
    (told,) = model.config.head[""].expects
    assert told == "f32[B, 128, ceil(H/8), ceil(W/8)] centres 0 + 8 i depth 3 never negative"
    pinned = yaml.safe_load(write_yaml(model.config))
    pinned["head"]["expects"] = "f32[B, 128, ceil((H - 14)/8), ceil((W - 14)/8)] centres 7 + 8 i"
    moved = assemble(pinned)
    (step,) = moved.report.plans["backbone"].routes[0].steps
    assert (step.op, step.first, step.step) == ("resample", (0.875, 0.875), (1.0, 1.0))
    assert _round_trips(moved)
    pinned["head"]["expects"] = "f32[B, 128, ceil((H - 14)/8), ceil((W - 14)/8)]"
    assert [step.op for step in assemble(pinned).report.plans["backbone"].routes[0].steps] == ["resize"]


@pytest.mark.slow
def test_a_level_that_is_made_at_another_stride_sees_the_whole_image() -> None:
    model = assemble(_config(PYRAMID, "ResNet_CIFAR")).eval()
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    (coarsest,) = [
        level for level in model.report.plans["backbone"].target.outputs.leaves if "32" in str(level.dims[2])
    ]
    assert coarsest.centres == ()  # those of the level that it is made from say nothing of it
    backbone = model.get_submodule("backbone")
    levels = flatten(backbone(image))[1]
    min(levels, key=lambda level: level.shape[2]).sum().backward()
    assert image.grad is not None
    assert all(bool(corner.abs().sum() > 0) for corner in (image.grad[..., :4, :4], image.grad[..., -4:, -4:]))


def _round_trips(model: AssembledModel) -> bool:
    """The config gives itself and the same weights by name and shape, also by way of YAML and JSON."""
    again = assemble(write_yaml(model.config))
    assert again.config == model.config
    assert again.report == model.report
    again.load_state_dict(model.state_dict())
    stored = Config.model_validate_json(model.config.model_dump_json(by_alias=True))
    assert stored == model.config
    assert json.loads(json.dumps(describe(model))) == model.config.flat()
    return True


@pytest.mark.slow
@pytest.mark.parametrize("source", ["torchvision:mobilenet_v2", "hf:resnet", "smp:resnet18"])
def test_backbones_of_every_zoo_give_levels_also_plain_classifiers(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = assemble(_config(PYRAMID, source))
    assert [given.stride for given in model.report.parts[1].given] == [4, 8, 16, 32]
    assert model(torch.zeros(2, 3, 64, 64), torch.zeros(2, 16, 16, dtype=torch.int64))["loss"].requires_grad
    if source.startswith("torchvision"):
        assert model.report.plans["backbone"].taps
        assert model.report.plans["backbone"].parameters == 0


def test_a_silent_change_of_stride_is_reported_though_channels_agree() -> None:
    small, big = assemble(_config(POOL, "ResNet_CIFAR")), assemble(_config(POOL, "timm:resnet18"))
    assert small.head.fc.in_features == big.head.fc.in_features == 512
    (fault,) = small.report.diff(big.report)
    assert fault.where == "neck (backbone.c3)"
    assert fault.expected == "f32[B, 512, ceil(H/8), ceil(W/8)], stride 8, 4x4 cells"
    assert fault.found == "f32[B, 512, ceil(H/32), ceil(W/32)], stride 32, 1x1 cells"
    assert "the channels agree (512), so nothing fails" in fault.why
    assert "is given a single cell (backbone.c5, stride 32, at 32x32)" in str(big.report)
    assert "single cell" not in str(small.report)


@pytest.mark.slow
def test_a_pinned_input_is_held_when_the_backbone_changes() -> None:
    pinned = write_yaml(assemble(_config(POOL, "ResNet_CIFAR")).config).replace(
        "type: ResNet_CIFAR", "type: timm:resnet18"
    )
    model = assemble(pinned.replace(", in_channels: 3", "")).eval()
    assert model.report.parts[1].given[0].cells == "4x4"
    assert model.backbone(torch.zeros(1, 3, 32, 32))["c3"].shape == (1, 512, 4, 4)
    with pytest.raises(AssemblyError, match=r"neck\.expects"):
        assemble(
            pinned.replace(", in_channels: 3", "").replace("from: backbone.c3", "from: backbone.c5") + "adapt: false\n"
        )


@pytest.mark.slow
def test_a_lock_file_holds_neck_and_head_fixed(tmp_path: Path) -> None:
    old = assemble(_config(PYRAMID, "timm:resnet50"))
    capture(old.backbone, torch.zeros(2, 3, 64, 64)).save(tmp_path / "resnet50.signature.json")
    config = tmp_path / "model.yaml"
    config.write_text(_config(PYRAMID, "timm:resnet18") + "adapt: {like: resnet50.signature.json}\n")
    new = assemble(config)
    new.neck.load_state_dict(old.neck.state_dict())
    new.head.load_state_dict(old.head.state_dict())
    assert new.config.neck == old.config.neck
    assert new.config.head == old.config.head
    assert new.report.plans["backbone (adapt.like)"].parameters > 0
    assert assemble(new.config).config == new.config
    signature = capture(new.backbone, torch.zeros(2, 3, 64, 64))
    assert capture(old.backbone, torch.zeros(2, 3, 64, 64)).diff(signature) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed", ["neck: GlobalAveragePooling\nhead: {type: LinearClsHead, num_classes: 10, in_channels: 2048}"]
)
def test_typed_channels_are_bridged_and_shown(typed: str) -> None:
    model = assemble(f"input: f32[B, 3, 64, 64]\nbackbone: timm:resnet18\n{typed}\n")
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
    assert "`head` asks for 2048 channels, neck has 512: an adapter projects" in model.report.remarks
    assert "512->2048" in str(model.report)
    assert _round_trips(model)


def test_typed_channels_of_a_pyramid_are_bridged_behind_the_backbone() -> None:
    model = assemble(
        _config(PYRAMID, "timm:resnet18").replace("out_channels: 16", "in_channels: [256, 512, 1024, 2048]")
    )
    assert model(torch.zeros(1, 3, 64, 64), torch.zeros(1, 16, 16, dtype=torch.int64))["loss"] > 0
    assert [str(route.specs[-1].dims[1]) for route in model.report.plans["backbone"].routes] == [
        "256",
        "512",
        "1024",
        "2048",
    ]


def test_parts_take_levels_by_name_and_explicitly() -> None:
    registry = _registry()
    model = assemble(
        """
        input: f32[B, 1, H, W]
        backbone: {type: Levels, channels: 4}
        neck: {type: Joined, from: [backbone.fine, backbone.c2]}
        head:
          named: {type: Named, from: backbone}
          several: {type: Several, from: [backbone.c1, backbone.fine]}
          whole: {type: Whole, from: backbone}
        """,
        registry=registry,
    )
    outputs = model(torch.zeros(2, 1, 16, 24))
    assert outputs["named"] == ["c1", "c2"]
    assert outputs["several"] == ["2 in a tuple"]
    assert outputs["whole"] == ["fine", "coarse"]
    assert [given.source for given in model.report.parts[1].given] == ["backbone.c1", "backbone.c2"]
    assert assemble(model.config, registry=registry).config == model.config


def _registry() -> Registry:
    registry = Registry()

    @registry.register("backbone")
    class Levels(nn.Module):
        def __init__(self, in_channels: int, channels: int = 8) -> None:
            super().__init__()
            self.fine = nn.Conv2d(in_channels, channels, 2, stride=2)
            self.coarse = nn.Conv2d(channels, channels, 2, stride=2)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            fine = self.fine(x)
            return {"fine": fine, "coarse": self.coarse(fine)}

    @registry.register("neck")
    class Joined(nn.Module):
        def __init__(self, in_channels: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(in_channels, 3, 1)

        def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
            return self.conv(fine) + nn.functional.interpolate(self.conv(coarse), size=fine.shape[2:])

    class Marked(nn.Module):
        """Returns what it was given along with a fact, so that a test can see both."""

    @registry.register("head")
    class Named(Marked):
        def forward(self, levels: dict[str, torch.Tensor]) -> Any:
            assert isinstance(levels, OrderedDict)
            return list(levels)

    @registry.register("head")
    class Several(Marked):
        def forward(self, levels: tuple[torch.Tensor, ...]) -> Any:
            return [f"{len(levels)} in a {type(levels).__name__}"]

    @registry.register("head")
    class Whole(Marked):
        def forward(self, levels) -> Any:  # type: ignore[no-untyped-def]  # whatever stands before it
            return list(levels)

    return registry


@pytest.mark.slow
def test_an_unannotated_part_gets_what_stands_before_it_also_behind_an_adapter() -> None:
    text = """
    input: f32[B, 3, 64, 64]
    backbone: timm:resnet18
    neck:
      whole: {type: Identity}
      fpn: {type: FPN, in_channels: [8, 8, 8, 8], out_channels: 8}
    """
    model = assemble(text)
    whole = model.neck.whole
    seen: list[Any] = []
    whole.register_forward_hook(lambda _module, args, _output: seen.append(args[0]))
    model(torch.zeros(1, 3, 64, 64))
    assert isinstance(seen[0], list)
    assert [tensor.shape[1] for tensor in seen[0]] == [64, 64, 128, 256, 512]


def test_images_of_another_number_of_channels_reach_the_zoo() -> None:
    model = assemble(_config(POOL, "timm:resnet18").replace("f32[B, 3, 32, 32]", "f32[B, 1, 32, 32]"))
    assert model.config.backbone[0].arguments == {"in_chans": 1}
    assert model(torch.zeros(2, 1, 32, 32), torch.tensor([1, 2]))["loss"] > 0


@pytest.mark.slow
def test_a_free_size_stays_free_and_a_fixed_model_gets_it_resized() -> None:
    text = _config(POOL, "timm:vit_tiny_patch16_224").replace("f32[B, 3, 32, 32]", "f32[B, 3, H, W]")
    model = assemble(text).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 96, 64)).shape == (1, 10)


@pytest.mark.slow
def test_weights_are_loaded_into_the_part_that_is_named(tmp_path: Path) -> None:
    donor = assemble(
        _config(POOL, "timm:swin_tiny_patch4_window7_224").replace("swin_tiny_patch4_window7_224", "resnet18")
    )
    torch.save({"state_dict": donor.state_dict()}, tmp_path / "whole.pth")
    torch.save(donor.backbone.state_dict(), tmp_path / "backbone.pth")
    config = tmp_path / "model.yaml"
    for weights in ("{from: backbone.pth, to: backbone}", "{from: whole.pth}"):
        config.write_text(_config(POOL, "timm:resnet18") + f"weights: [{weights}]\n")
        model = assemble(config)
        assert torch.equal(model.backbone.conv1.weight, donor.backbone.conv1.weight)
        assert torch.equal(model.head.fc.weight, donor.head.fc.weight) == ("whole" in weights)
    assert assemble(model.config).config == model.config


@pytest.mark.slow
def test_weights_reach_a_backbone_that_is_adapted(tmp_path: Path) -> None:
    donor = assemble(_config(PYRAMID, "ResNet_CIFAR"))
    torch.save(donor.backbone.backbone.state_dict(), tmp_path / "backbone.pth")
    weights = {"from": str(tmp_path / "backbone.pth"), "to": "backbone", "include": ["conv1.*", "layer1.*"]}
    model = assemble({**assemble(_config(PYRAMID, "ResNet_CIFAR")).config.flat(), "weights": [weights]})
    assert torch.equal(model.backbone.backbone.conv1.weight, donor.backbone.backbone.conv1.weight)
    assert not torch.equal(
        model.backbone.backbone.layer2[0].conv1.weight, donor.backbone.backbone.layer2[0].conv1.weight
    )


def test_losses_need_their_targets() -> None:
    model = assemble(_config(BOTH, "ResNet_CIFAR"))
    images = torch.zeros(1, 3, 64, 64)
    with pytest.raises(AssemblyError, match=r"the losses lack a target\ntargets\.label\n.*\n  found     no targets"):
        model(images)
    with pytest.raises(AssemblyError, match="try       rename `label_` to `label`"):
        model(images, {"label_": torch.tensor([1]), "cells": torch.zeros(1, 16, 16)})
    model.eval()
    assert set(model(images)) == {"label", "cells"}


def test_a_target_can_bring_a_weight_and_an_averaging_factor() -> None:
    model = assemble(_config(POOL, "ResNet_CIFAR")).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([1, 2, 3, 4])
    plain = model(images, labels)["loss"]
    weighted = model(images, {"label": {"target": labels, "weight": torch.full((4,), 3.0), "avg_factor": 6.0}})["loss"]
    torch.testing.assert_close(weighted, plain * 4 * 3 / 6)


@pytest.mark.slow
def test_a_model_is_an_ordinary_module() -> None:
    model = assemble(_config(PYRAMID, "timm:vit_tiny_patch16_224")).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(copy.deepcopy(model)(images), expected)
        stored = io.BytesIO()
        torch.save(model, stored)
        stored.seek(0)
        assert torch.equal(torch.load(stored, weights_only=False)(images), expected)
    assert {name.partition(".")[0] for name in model.state_dict()} == {"backbone", "neck", "head"}
