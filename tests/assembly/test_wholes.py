"""Detectors and segmentors of mmengine's registries by their own config, with their backbone or another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from guests import guest
from torch import nn

from autoadapt.assembly import assemble
from autoadapt.errors import AssemblyError

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
OLD = {"type": "StandNet", "widths": (4, 8), "out_indices": (0, 1), "init_cfg": {"type": "Kaiming", "layer": "Conv2d"}}

DETECTOR: dict[str, Any] = {
    "type": "StandDetector",
    "data_preprocessor": {"type": "StandPreprocessor", "mean": MEAN, "std": STD, "bgr_to_rgb": True},
    "backbone": OLD,
    "neck": {"type": "StandFPN", "in_channels": [4, 8], "out_channels": 6},
    "bbox_head": {"type": "StandBoxHead", "in_channels": 6, "loss_cls": {"type": "StandLoss", "loss_weight": 2.0}},
    "train_cfg": {"assigner": {"limit": 0.5}},
    "test_cfg": {"score_thr": 0.05},
}
SMALL = "f32[B, 3, 32, 32]"


@pytest.fixture
def registry() -> Iterator[Any]:
    """A registry below mmengine's, with small parts in the manner of mmdet."""
    root, model = guest("mmengine.registry").MODELS, guest("mmengine.model")
    models = type(root)("model", parent=root, scope="standdet")

    class StandNet(model.BaseModule):  # type: ignore[misc]
        def __init__(self, widths, out_indices, init_cfg=None) -> None:  # type: ignore[no-untyped-def]
            super().__init__(init_cfg)
            assert isinstance(out_indices, tuple)
            self.convs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=4) for a, b in zip((3, *widths), widths, strict=False))

        def forward(self, x):  # type: ignore[no-untyped-def]
            found = []
            for conv in self.convs:
                x = conv(x)
                found.append(x)
            return tuple(found)

    class StandFPN(model.BaseModule):  # type: ignore[misc]
        def __init__(self, in_channels, out_channels, init_cfg=None) -> None:  # type: ignore[no-untyped-def]
            super().__init__(init_cfg or {"type": "Constant", "layer": "Conv2d", "val": 0.5})
            self.convs = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)

        def forward(self, inputs):  # type: ignore[no-untyped-def]
            assert isinstance(inputs, tuple)
            assert len(inputs) == len(self.convs)
            return tuple(conv(level) for conv, level in zip(self.convs, inputs, strict=True))

    class StandBoxHead(model.BaseModule):  # type: ignore[misc]
        def __init__(self, in_channels, loss_cls, train_cfg=None, test_cfg=None) -> None:  # type: ignore[no-untyped-def]
            super().__init__()
            self.conv = nn.Conv2d(in_channels, 1, 1)
            self.loss_cls = models.build(loss_cls)
            self.limit = train_cfg.assigner.limit  # by attribute, as configs are read there

        def forward(self, levels):  # type: ignore[no-untyped-def]
            return tuple(self.conv(level) for level in levels)

    class StandLoss(nn.Module):
        def __init__(self, loss_weight) -> None:  # type: ignore[no-untyped-def]
            super().__init__()
            self.loss_weight = loss_weight

        def forward(self, found, wanted):  # type: ignore[no-untyped-def]
            return self.loss_weight * (found - wanted).abs()

    class StandDetector(model.BaseModel):  # type: ignore[misc]
        def __init__(  # type: ignore[no-untyped-def]
            self, backbone, neck, bbox_head, train_cfg=None, test_cfg=None, data_preprocessor=None, init_cfg=None
        ) -> None:
            super().__init__(data_preprocessor, init_cfg)
            self.backbone, self.neck = models.build(backbone), models.build(neck)
            bbox_head.update(train_cfg=train_cfg, test_cfg=test_cfg)
            self.bbox_head = models.build(bbox_head)

        def forward(self, inputs, data_samples=None, mode="tensor"):  # type: ignore[no-untyped-def]
            found = self.bbox_head(self.neck(self.backbone(inputs)))
            if mode == "tensor":
                return found
            losses = [self.bbox_head.loss_cls(level, data_samples[0]) for level in found]
            return {"loss_cls": losses, "acc": torch.tensor(3.0)}

    class StandPreprocessor(model.ImgDataPreprocessor):  # type: ignore[misc]
        pass

    class StandSegmentor(StandDetector):
        def __init__(self, backbone, decode_head, auxiliary_head, **others) -> None:  # type: ignore[no-untyped-def]
            model.BaseModel.__init__(self, **others)
            self.backbone = models.build(backbone)
            self.decode_head, self.auxiliary_head = models.build(decode_head), models.build(auxiliary_head)

        def forward(self, inputs, data_samples=None, mode="tensor"):  # type: ignore[no-untyped-def]
            levels = self.backbone(inputs)
            return self.decode_head(levels), self.auxiliary_head(levels)

    class StandDecodeHead(nn.Module):
        def __init__(self, in_channels, in_index) -> None:  # type: ignore[no-untyped-def]
            super().__init__()
            self.in_index, self.conv = in_index, nn.Conv2d(in_channels, 2, 1)

        def forward(self, levels):  # type: ignore[no-untyped-def]
            return self.conv(levels[self.in_index])

    class StandOdd(nn.Module):
        def __init__(self, backbone) -> None:  # type: ignore[no-untyped-def]
            super().__init__()

    parts = (StandNet, StandFPN, StandBoxHead, StandLoss, StandDetector, StandPreprocessor)
    for part in (*parts, StandSegmentor, StandDecodeHead, StandOdd):
        models.register_module(module=part)
    yield models
    del root.children["standdet"]


@pytest.mark.guest
@pytest.mark.parametrize("kind", ["mm:standdet.StandDetector", "StandDetector", "standdet.StandDetector"])
def test_a_detector_is_made_by_its_own_config_and_trains(registry: Any, kind: str) -> None:
    model = assemble({"input": SMALL, "model": {**DETECTOR, "type": kind}})
    images = torch.randint(0, 256, (2, 3, 32, 32)).float()
    losses = model(images, [torch.tensor(1.0)])
    assert list(losses) == ["loss_cls"]
    whole = model.whole
    normalised = whole.data_preprocessor({"inputs": images, "data_samples": None})["inputs"]
    levels = whole(normalised)
    torch.testing.assert_close(losses["loss_cls"], sum(2 * (level - 1).abs().mean() for level in levels))
    torch.testing.assert_close(model(images), levels)
    losses["loss_cls"].backward()
    assert whole.neck.convs[0].weight.eq(0.5).all(), "weights start as a Runner lets them"
    assert [part.type for part in model.report.parts] == ["mm:standdet.StandNet", "mm:standdet.StandDetector"]
    assert [str(given.spec) for given in model.report.parts[1].given] == [
        "f32[B, 4, ceil((H - 1)/4), ceil((W - 1)/4)]",
        "f32[B, 8, ceil((H - 5)/16), ceil((W - 5)/16)]",
    ]
    assert assemble(model.config).config == model.config


@pytest.mark.guest
def test_a_python_config_of_a_detector_is_assembled_in_its_scope(registry: Any, tmp_path: Path) -> None:
    path = tmp_path / "detector.py"
    path.write_text(f"default_scope = 'standdet'\ninput = {SMALL!r}\nmodel = {DETECTOR!r}\n")
    assert assemble(path).report.parts[0].type == "mm:standdet.StandNet"
    path.write_text(path.read_text().replace("'StandFPN'", "\n'StandFPM'"))
    with pytest.raises(AssemblyError) as caught:
        assemble(path)
    assert caught.value.mismatches[0].where == "whole.neck.type (line 4)"
    assert caught.value.mismatches[0].found == "`StandFPM`"
    assert "StandFPN" in caught.value.mismatches[0].remedy


@pytest.mark.guest
def test_another_backbone_in_a_detector_is_adapted_to_its_neck(registry: Any) -> None:
    backbone = {"type": "timm:resnet18"}
    model = assemble({"input": SMALL, "model": {**DETECTOR, "backbone": backbone}})
    images = torch.rand(2, 3, 32, 32)
    assert [tuple(level.shape) for level in model.whole.backbone(images)] == [(2, 4, 2, 2), (2, 8, 1, 1)]
    sum(model(images, [torch.tensor(1.0)]).values()).backward()
    assert any("c4 (stride 16), c5 (stride 32) of backbone" in remark for remark in model.report.remarks)
    assert model.report.plans["backbone"].routes
    assert assemble(model.config).config == model.config
    with pytest.raises(AssemblyError, match="leave `adapt: false` out"):
        assemble({"input": SMALL, "adapt": False, "model": {**DETECTOR, "backbone": backbone}})


@pytest.mark.guest
def test_the_old_backbone_can_be_the_contract_of_another(registry: Any) -> None:
    config = {
        "input": SMALL,
        "adapt": {"like": OLD},
        "model": {**DETECTOR, "backbone": {"type": "ResNet", "depth": 18}},
    }
    model = assemble(config)
    old = assemble({"input": SMALL, "model": DETECTOR}).whole.backbone
    for size in (32, 45, 67):
        images = torch.rand(2, 3, size, size)
        found, expected = model.whole.backbone(images), old(images)
        assert [level.shape for level in found] == [level.shape for level in expected]
    assert assemble(model.config).config == model.config


@pytest.mark.guest
def test_another_backbone_in_a_segmentor_is_adapted_to_its_heads(registry: Any) -> None:
    segmentor = {
        "type": "StandSegmentor",
        "backbone": {"type": "ResNet", "depth": 18, "out_indices": (0, 1, 2, 3)},
        "decode_head": {"type": "StandDecodeHead", "in_channels": 20, "in_index": 3},
        "auxiliary_head": {"type": "StandDecodeHead", "in_channels": 10, "in_index": 2},
    }
    model = assemble({"input": SMALL, "model": segmentor})
    images = torch.rand(2, 3, 32, 32)
    assert [level.shape[1] for level in model.whole.backbone(images)] == [64, 128, 10, 20]
    assert [tuple(scores.shape) for scores in model(images)] == [(2, 2, 1, 1), (2, 2, 2, 2)]


@pytest.mark.guest
def test_checkpoints_within_a_whole_are_refused_unless_they_are_allowed(registry: Any, tmp_path: Path) -> None:
    source = assemble({"input": SMALL, "model": DETECTOR}).whole
    file = tmp_path / "net.pth"
    torch.save(source.backbone.state_dict(), file)
    start = {"type": "Pretrained", "checkpoint": str(file)}
    config = {"input": SMALL, "model": {**DETECTOR, "backbone": {**OLD, "init_cfg": start}}}
    with pytest.raises(AssemblyError, match="a checkpoint that the caller allows"):
        assemble(config)
    found = assemble(config, allow=[str(file)]).whole
    assert torch.equal(found.backbone.convs[0].weight, source.backbone.convs[0].weight)
    neck = {**DETECTOR["neck"], "init_cfg": start}
    with pytest.raises(AssemblyError, match=r"whole\.neck\.init_cfg\n  expected  no checkpoint but in the backbone"):
        assemble({"input": SMALL, "model": {**DETECTOR, "neck": neck}}, allow=[str(file)])


@pytest.mark.guest
def test_what_a_whole_does_not_take_and_what_no_registry_has_is_refused(registry: Any) -> None:
    with pytest.raises(AssemblyError, match=r"an argument of mm:standdet\.StandDetector") as caught:
        assemble({"input": SMALL, "model": {**DETECTOR, "rpn_hed": {}}})
    assert caught.value.mismatches[0].where == "whole.rpn_hed"
    with pytest.raises(AssemblyError, match=r"`mmdet\.RetinaNet`, which is not registered\n  try       import mmdet"):
        assemble({"input": SMALL, "model": {**DETECTOR, "type": "mmdet.RetinaNet"}})
    with pytest.raises(AssemblyError, match="a BaseModel of mmengine") as caught:
        assemble({"input": SMALL, "model": {"type": "mm:standdet.StandOdd", "backbone": OLD}})


@pytest.mark.guest
def test_a_preprocessor_of_a_registry_goes_before_ours(registry: Any) -> None:
    described = {"type": "StandPreprocessor", "mean": MEAN, "std": STD, "bgr_to_rgb": True}
    config = {"input": SMALL, "backbone": {"type": "ResNet", "depth": 18}, "neck": {"type": "Identity"}}
    model = assemble({**config, "data_preprocessor": described})
    assert model.report.parts[0].type == "mm:standdet.StandPreprocessor"
    ours = assemble({**config, "data_preprocessor": {**described, "type": "DetDataPreprocessor"}})
    ours.load_state_dict(model.state_dict())
    images = torch.randint(0, 256, (2, 3, 32, 32)).float()
    torch.testing.assert_close(model.eval()(images), ours.eval()(images))
    assert assemble(model.config).config == model.config


FASTER_RCNN = """
model = dict(
    type='FasterRCNN',
    backbone=dict(type='ResNet', depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=256, num_outs=5),
    rpn_head=dict(type='RPNHead'), roi_head=dict(type='StandardRoIHead'),
    train_cfg=dict(rpn=dict()), test_cfg=dict(rpn=dict()))
"""


def test_a_detector_whose_library_is_not_there_is_refused_by_what_to_import_alone(tmp_path: Path) -> None:
    path = tmp_path / "faster-rcnn.py"
    path.write_text(FASTER_RCNN)
    with pytest.raises(AssemblyError) as caught:
        assemble(path)
    assert [(fault.where, fault.remedy) for fault in caught.value.mismatches] == [
        ("type (line 3)", "import mmdet  # before the config is read"),
        ("backbone.init_cfg (line 4)", "fetch it first, and name the file, or leave it out"),
    ]
