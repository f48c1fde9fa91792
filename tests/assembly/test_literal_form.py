"""The literal form of the OpenMMLab configs assembles and trains as it is written there."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from literal_configs import LITERAL, SMALL, SWIN, _literal
from torch import nn

from autoadapt.assembly import AssembledModel, Registry, assemble, compare, read_dialect
from autoadapt.errors import AssemblyError

VIT: dict[str, Any] = {
    "type": "ImageClassifier",
    "backbone": {
        "type": "VisionTransformer",
        "arch": {"embed_dims": 32, "num_layers": 2, "num_heads": 2, "feedforward_channels": 64},
        "img_size": 32,
        "patch_size": 4,
        "init_cfg": [{"type": "Kaiming", "layer": "Conv2d", "mode": "fan_in", "nonlinearity": "linear"}],
    },
    "neck": None,
    "head": {
        "type": "VisionTransformerClsHead",
        "num_classes": 10,
        "in_channels": 32,
        "loss": {"type": "LabelSmoothLoss", "label_smooth_val": 0.1, "mode": "classy_vision"},
    },
}

MOBILENET = """
model = dict(
    type='ImageClassifier',
    backbone=dict(type='MobileNetV2', widen_factor=0.25),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=1280,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
    ))
"""

MOBILENET_V3 = """
model = dict(
    type='ImageClassifier',
    backbone=dict(type='MobileNetV3', arch='small'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='StackedLinearClsHead',
        num_classes=10,
        in_channels=576,
        mid_channels=[64],
        dropout_rate=0.2,
        act_cfg=dict(type='Hardswish'),
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        init_cfg=dict(type='Normal', layer='Linear', mean=0., std=0.01, bias=0.),
        topk=(1, 5)))
optim_wrapper = dict(optimizer=dict(type='RMSprop', lr=0.064))
"""

RESNET_V1D = """
_base_ = ['resnet18.py']
model = dict(backbone=dict(type='ResNetV1d', norm_cfg=dict(type='SyncBN', requires_grad=True)))
train_dataloader = dict(batch_size=32)
"""

BASE = """
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=(3, ), style='pytorch'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512,
              loss=dict(type='CrossEntropyLoss', loss_weight=1.0), topk=(1, 5)))
"""


def _file(folder: Path, text: str) -> Path:
    (folder / "resnet18.py").write_text(BASE)
    path = folder / "config.py"
    path.write_text(f"input = '{SMALL}'\n{text}")
    return path


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Forty of scikit-learn's digits as images `[40, 3, 32, 32]`, and their classes."""
    found = pytest.importorskip("sklearn.datasets").load_digits()
    images = torch.tensor(found.images[:40], dtype=torch.float32)[:, None].expand(-1, 3, -1, -1) / 16
    return nn.functional.interpolate(images, scale_factor=4.0), torch.tensor(found.target[:40])


def _learns(model: AssembledModel, data: tuple[torch.Tensor, torch.Tensor], steps: int = 12, lr: float = 2e-3) -> None:
    """The loss falls, and predictions in eval mode have a score for each class."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        (loss,) = model.train()(*data).values()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert model.eval()(data[0]).shape[0] == 40


@pytest.mark.slow
def test_the_literal_config_assembles_trains_on_digits_and_counts_accuracies(
    digits: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = assemble(_literal())
    _learns(model, digits, steps=3)
    assert model.head.fc.weight.shape == (1000, 2048)
    assert model.report.plans == {}
    assert model.config.flat()["topk"] == [1, 5]
    assert assemble(model.config).config == model.config
    scores = model(digits[0])
    found = model.metrics(*digits)
    assert found["accuracy_top1"] == (scores.argmax(1) == digits[1]).float().mean()
    among = [label in row.topk(5).indices for row, label in zip(scores, digits[1], strict=True)]
    assert found["accuracy_top5"] == torch.tensor(among).float().mean()


@pytest.mark.slow
def test_the_model_around_the_parts_is_unwrapped() -> None:
    expected = assemble(_literal()).config
    for config in (
        {"model_cfg": LITERAL},
        {"model": {"type": "ImageClassifier", **LITERAL}},
        {"type": "mmpretrain.ImageClassifier", **LITERAL},
    ):
        assert assemble({"input": SMALL, **config}).config == expected
    with pytest.raises(
        AssemblyError, match=r"type\n  expected  ImageClassifier, or a model of .*\n  found     `FasterRCNN`"
    ):
        assemble({"model": {"type": "FasterRCNN", **LITERAL}})


@pytest.mark.slow
@pytest.mark.parametrize("config", [SWIN, VIT], ids=["swin", "vit"])
def test_the_siblings_with_attention_train_on_digits(
    config: dict[str, Any], digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    model = assemble({"input": SMALL, "model": config})
    assert model.report.plans == {}
    _learns(model, digits, steps=60)


@pytest.mark.slow
@pytest.mark.parametrize("text", [MOBILENET, MOBILENET_V3, RESNET_V1D], ids=["mobilenet v2", "v3", "resnet v1d"])
def test_published_python_configs_train_on_digits(
    text: str, tmp_path: Path, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    model = assemble(_file(tmp_path, text))
    assert model.report.plans == {}
    _learns(model, digits)
    assert set(model.metrics(*digits)) == {"accuracy_top1", "accuracy_top5"}


TWELVE: tuple[dict[str, Any], ...] = (
    {"type": "ResNet", "depth": 18},
    {"type": "ResNet", "depth": 34, "style": "caffe"},
    {"type": "ResNetV1c", "depth": 50, "frozen_stages": 1, "norm_eval": True},
    {"type": "ResNeXt", "depth": 50, "groups": 32, "width_per_group": 4},
    {"type": "MobileNetV2", "widen_factor": 0.5},
    {"type": "MobileNetV3", "arch": "small"},
    SWIN["backbone"],
    VIT["backbone"],
    {**VIT["backbone"], "out_type": "featmap"},
    {"type": "ResNet_CIFAR", "depth": 18},
    {"type": "timm:convnext_atto"},
    {"type": "torchvision:squeezenet1_1"},
)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("backbone", TWELVE, ids=[f"{i} {each['type']}" for i, each in enumerate(TWELVE)])
def test_changing_the_line_of_the_backbone_alone_is_enough(backbone: dict[str, Any]) -> None:
    model = assemble(_literal(backbone))
    images, classes = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    model(images, classes)["loss"].backward()
    assert model.eval()(images).shape == (2, 1000)
    assert assemble(model.config).config == model.config


def test_levels_are_those_of_the_zoo_and_the_same_numbers() -> None:
    import timm

    torch.manual_seed(0)
    backbone = assemble({"input": SMALL, "backbone": {"type": "ResNet", "depth": 18, "out_indices": (0, 2)}}).backbone
    theirs = timm.create_model("resnet18", features_only=True, out_indices=(1, 3)).eval()
    theirs.load_state_dict(backbone.body.net.state_dict(), strict=False)
    images = torch.rand(2, 3, 32, 32)
    for found, expected in zip(backbone.eval()(images), theirs(images), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_class_token_and_the_last_map_are_those_behind_the_last_norm() -> None:
    model = assemble({"input": SMALL, **VIT}).eval()
    images = torch.rand(2, 3, 32, 32)
    tokens = model.backbone.body.net.forward_features(images)
    torch.testing.assert_close(model(images), model.head.layers(tokens[:, 0]))
    swin = assemble({"input": SMALL, **SWIN}).eval()
    found = swin.backbone.body.net.forward_features(images).permute(0, 3, 1, 2)
    torch.testing.assert_close(swin(images), swin.head.fc(found.mean((2, 3))))


@pytest.mark.slow
def test_the_style_says_which_convolution_of_a_block_steps() -> None:
    for style, expected in (("pytorch", ((1, 1), (2, 2))), ("caffe", ((2, 2), (1, 1)))):
        model = assemble({"input": SMALL, "backbone": {"type": "ResNet", "depth": 50, "style": style}})
        block = model.backbone.body.net.layer2[0]
        assert (block.conv1.stride, block.conv2.stride) == expected


def test_frozen_stages_and_norms_stay_as_they_are_in_training() -> None:
    backbone = {"type": "ResNet", "depth": 18, "frozen_stages": 1, "norm_eval": True, "out_indices": (0, 1, 2, 3)}
    model = assemble(
        {"input": SMALL, "backbone": backbone, "neck": "FPN", "head": {"type": "DenseHead", "num_classes": 2}}
    )
    net = model.train().backbone.get_submodule("body.net")
    trained = {name.split(".")[0] for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert not net.layer1.training
    assert net.layer3.training
    before = net.layer3[0].bn1.running_mean.clone()
    model(torch.rand(2, 3, 32, 32))
    assert torch.equal(net.layer3[0].bn1.running_mean, before)


def test_frozen_stages_stay_so_behind_an_adapter_and_in_copies() -> None:
    backbone = {"type": "ResNet", "depth": 18, "frozen_stages": 4, "out_indices": (2, 3)}
    config = {"input": SMALL, "backbone": backbone, "neck": {"type": "FPN", "in_channels": [64, 64, 64, 64]}}
    model = copy.deepcopy(assemble(config)).train()
    assert model.report.plans
    norms = [m for name, m in model.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)


@pytest.mark.slow
def test_norms_are_those_of_the_config() -> None:
    def norms(norm_cfg: dict[str, Any]) -> list[nn.Module]:
        backbone = {"type": "ResNet", "depth": 18, "norm_cfg": norm_cfg}
        modules = assemble({"input": SMALL, "backbone": backbone}).modules()
        return [m for m in modules if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))]

    fixed = norms({"type": "BN", "requires_grad": False, "eps": 0.01})
    assert all(isinstance(m, nn.BatchNorm2d) and m.eps == 0.01 and not m.weight.requires_grad for m in fixed)
    assert all(isinstance(m, nn.GroupNorm) and m.num_groups == 8 for m in norms({"type": "GN", "num_groups": 8}))
    with pytest.raises(AssemblyError, match=r"norm_cfg\n  expected  type BN, SyncBN or GN"):
        norms({"type": "LN2d"})


@pytest.mark.slow
def test_accuracies_need_a_loss_and_as_many_classes() -> None:
    config = _literal()
    config["head"]["num_classes"] = 3
    with pytest.raises(AssemblyError, match=r"topk\n  expected  at most 3, one for each class\n  found     5"):
        assemble(config)
    del config["head"]["loss"]
    config["head"]["topk"] = 1
    with pytest.raises(AssemblyError, match=r"topk\n  expected  a head with a loss"):
        assemble(config)


def test_two_losses_for_one_head_are_refused() -> None:
    with pytest.raises(AssemblyError, match="`loss` in the head, and another outside"):
        assemble(_literal(loss="CrossEntropyLoss"))


def test_a_segmentor_of_one_head_takes_its_level_by_index() -> None:
    head = {
        "type": "FCNHead",
        "in_channels": 256,
        "in_index": 2,
        "channels": 8,
        "num_convs": 1,
        "num_classes": 4,
        "norm_cfg": {"type": "SyncBN", "requires_grad": True},
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 0.4},
    }
    backbone = {
        "type": "ResNetV1c",
        "depth": 18,
        "out_indices": (0, 1, 2, 3),
        "dilations": (1, 1, 2, 4),
        "strides": (1, 2, 1, 1),
        "contract_dilation": True,
    }
    model = assemble({"input": SMALL, "backbone": backbone, "head": head})
    losses = model(torch.rand(2, 3, 32, 32), torch.zeros(2, 4, 4, dtype=torch.int64))
    assert losses["loss"] > 0
    assert str(model.report.parts[1].given[0].spec) == "f32[B, 256, ceil(H/8), ceil(W/8)]"


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ({"dilations": (1, 1, 2, 4), "strides": (1, 2, 1, 1)}, "contract_dilation: true"),
        ({"strides": (1, 2, 2, 1)}, "dilations: [1, 1, 1, 2]"),
        ({"dilations": (1, 1, 1, 2), "contract_dilation": True}, "strides: [1, 2, 2, 1]"),
    ],
)
def test_dilations_that_the_zoo_has_not_are_refused_with_what_it_has(arguments: dict[str, Any], missing: str) -> None:
    with pytest.raises(AssemblyError, match=re.escape(missing)):
        assemble({"input": SMALL, "backbone": {"type": "ResNet", "depth": 18, **arguments}})


@pytest.mark.slow
def test_a_detector_s_necks_take_levels() -> None:
    backbone = {"type": "ResNet", "depth": 18, "out_indices": (1, 2, 3)}
    neck = {
        "type": "ChannelMapper",
        "in_channels": [128, 256, 512],
        "kernel_size": 1,
        "out_channels": 8,
        "norm_cfg": {"type": "GN", "num_groups": 4},
        "num_outs": 4,
    }
    levels = assemble({"input": "f32[B, 3, 64, 64]", "backbone": backbone, "neck": neck})(torch.rand(1, 3, 64, 64))
    assert [tuple(level.shape) for level in levels] == [(1, 8, 8, 8), (1, 8, 4, 4), (1, 8, 2, 2), (1, 8, 1, 1)]
    fpn = {"type": "FPN", "out_channels": 8, "num_outs": 5}
    backbone["out_indices"] = (0, 1, 2, 3)
    found = assemble({"input": "f32[B, 3, 64, 64]", "backbone": backbone, "neck": fpn})(torch.rand(1, 3, 64, 64))
    assert {name: tuple(level.shape[2:]) for name, level in found.items()} == {
        "p2": (16, 16),
        "p3": (8, 8),
        "p4": (4, 4),
        "p5": (2, 2),
        "p6": (1, 1),
    }


@pytest.mark.slow
def test_backbones_of_a_literal_config_can_be_compared() -> None:
    found = compare(_literal([{"type": "ResNet", "depth": 18}, {"type": "MobileNetV3", "arch": "small"}]))
    assert [row.fault for row in found.rows] == ["", ""]


def test_a_dialect_of_one_s_own_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names.json"
    file.write_text(
        '{"TenLayers": {"source": "timm", "model": "resnet10t", "out_indices": [3], "levels": [1, 2, 3, 4],'
        ' "arguments": {"planes": "in_chans"}}, "Ten": {"like": "TenLayers"}}'
    )
    registry = Registry()
    assert read_dialect(file, registry) == ("TenLayers", "Ten")
    model = assemble({"input": "f32[B, 1, 32, 32]", "backbone": {"type": "Ten", "planes": 1}}, registry=registry)
    assert model.eval()(torch.zeros(1, 1, 32, 32))[0].shape == (1, 512, 1, 1)
