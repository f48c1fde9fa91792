"""Configs of the literal form where mmengine is there: its registries go first, nested ones too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from guests import guest
from torch import nn

from autoadapt.assembly import assemble, share_with_mmengine
from autoadapt.errors import AssemblyError

CONFIG: dict[str, Any] = {
    "input": "f32[B, 3, 32, 32]",
    "backbone": {"type": "StandInNet", "width": 6, "out_indices": (0, 1), "init_cfg": {"type": "Kaiming"}},
    "neck": {"type": "GlobalAveragePooling"},
    "head": {"type": "StandInHead", "num_classes": 10, "loss": {"type": "CrossEntropyLoss", "loss_weight": 1.0}},
}


@pytest.fixture
def registries() -> Iterator[Any]:
    """Two registries below mmengine's, with parts that stand in for those of mmpretrain and mmdet."""
    root = guest("mmengine.registry").MODELS
    base_module = guest("mmengine.model").BaseModule
    made = {scope: type(root)("model", parent=root, scope=scope) for scope in ("standpretrain", "standdet")}

    class StandInNet(base_module):  # type: ignore[misc]
        def __init__(self, width, out_indices=(1,), init_cfg=None) -> None:  # type: ignore[no-untyped-def]
            super().__init__(init_cfg)
            assert isinstance(out_indices, tuple), "a tuple, as Python configs write it"
            self.convs = nn.ModuleList([nn.Conv2d(3, width, 2, stride=2), nn.Conv2d(width, width, 2, stride=2)])
            self.out_indices = out_indices

        def forward(self, x):  # type: ignore[no-untyped-def]
            levels = []
            for conv in self.convs:
                x = conv(x)
                levels.append(x)
            return tuple(levels[i] for i in self.out_indices)

    class GlobalAveragePooling(nn.Module):
        def forward(self, inputs):  # type: ignore[no-untyped-def]
            assert isinstance(inputs, tuple)
            return tuple(level.mean((2, 3)) for level in inputs)

    class StandInHead(nn.Module):
        def __init__(self, num_classes, in_channels, loss=None) -> None:  # type: ignore[no-untyped-def]
            super().__init__()
            self.fc = nn.Linear(in_channels, num_classes)
            self.built = made["standpretrain"].build(loss)

        def forward(self, feats):  # type: ignore[no-untyped-def]
            return self.fc(feats[-1])

    class CrossEntropyLoss(nn.Module):
        def __init__(self, loss_weight=1.0) -> None:  # type: ignore[no-untyped-def]
            super().__init__()
            self.loss_weight = loss_weight

        def forward(self, scores, label, weight=None):  # type: ignore[no-untyped-def]
            return self.loss_weight * nn.functional.cross_entropy(scores, label)

    for part in (StandInNet, GlobalAveragePooling, StandInHead, CrossEntropyLoss):
        made["standpretrain"].register_module(module=part)
    made["standdet"].register_module(name="OnlyInDet", module=StandInNet)
    yield made
    for scope in made:
        del root.children[scope]


@pytest.mark.guest
def test_bare_names_find_the_registry_first_and_the_report_says_so(registries: Any) -> None:
    share_with_mmengine()  # our own parts below its root are not taken for those of a registry
    model = assemble(CONFIG)
    images, classes = torch.rand(4, 3, 32, 32), torch.tensor([1, 2, 3, 4])
    model(images, classes)["loss"].backward()
    assert model.eval()(images).shape == (4, 10)
    assert [part.type for part in model.report.parts] == [
        "mm:standpretrain.StandInNet",
        "mm:standpretrain.GlobalAveragePooling",
        "mm:standpretrain.StandInHead",
        "mm:standpretrain.CrossEntropyLoss",
    ]
    said = "`GlobalAveragePooling` is mm:standpretrain.GlobalAveragePooling of mmengine's registry, not ours"
    assert said in model.report.remarks
    assert type(model.head.built).__name__ == "CrossEntropyLoss"
    assert assemble(model.config).config == model.config


@pytest.mark.guest
def test_a_name_of_several_registries_is_refused_until_its_scope_is_said(registries: Any) -> None:
    registries["standdet"].register_module(name="StandInNet", module=registries["standdet"].get("OnlyInDet"))
    with pytest.raises(
        AssemblyError, match=r"`StandInNet` in several: standpretrain\.StandInNet, standdet\.StandInNet"
    ):
        assemble(CONFIG)
    for name in ("mm:standdet.StandInNet", "mm:standpretrain.StandInNet"):
        model = assemble({**CONFIG, "backbone": {**CONFIG["backbone"], "type": name}})
        assert model.report.parts[0].type == name
    default = guest("mmengine.registry").DefaultScope
    with default.overwrite_default_scope("standdet"):
        alone = {key: CONFIG[key] for key in ("input", "backbone")}
        assert assemble(alone).report.parts[0].type == "mm:standdet.StandInNet"


@pytest.mark.guest
def test_a_name_that_only_we_have_is_ours(registries: Any) -> None:
    model = assemble({**CONFIG, "backbone": {"type": "ResNet", "depth": 18}})
    assert model.report.parts[0].type == "ResNet"
    assert type(model.head).__name__ == "StandInHead"


@pytest.mark.guest
def test_a_checkpoint_is_refused_also_where_the_part_would_load_it_itself(registries: Any) -> None:
    start = {"type": "Pretrained", "checkpoint": "net.pth"}
    with pytest.raises(AssemblyError, match="a checkpoint that the caller allows"):
        assemble({**CONFIG, "backbone": {**CONFIG["backbone"], "init_cfg": start}})


@pytest.mark.guest
def test_a_constructor_that_asserts_shows_the_line(registries: Any) -> None:
    with pytest.raises(AssemblyError, match=r"AssertionError: a tuple, .*: `assert isinstance\(out_indices, tuple\)"):
        assemble({**CONFIG, "backbone": {**CONFIG["backbone"], "out_indices": [0, 1]}})
