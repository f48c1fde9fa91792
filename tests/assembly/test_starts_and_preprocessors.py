"""How weights start and what is done to pixels, as mmengine does both; without it where it is not installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from guests import guest
from torch import nn

from autoadapt.assembly import assemble
from autoadapt.assembly.preprocessors import ImagePreprocessor
from autoadapt.assembly.weight_starts import start_weights
from autoadapt.errors import AssemblyError

CONFIG: dict[str, Any] = {
    "input": "f32[B, 3, 32, 32]",
    "backbone": {"type": "ResNet", "depth": 18},
    "neck": {"type": "GlobalAveragePooling"},
    "head": {"type": "LinearClsHead", "num_classes": 10, "loss": {"type": "CrossEntropyLoss"}},
}
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)
        self.out = nn.Sequential(nn.Linear(4, 2, bias=False))


STARTS: dict[str, Any] = {
    "kaiming": {"type": "Kaiming", "layer": "Conv2d"},
    "kaiming uniform": {"type": "Kaiming", "layer": "Linear", "distribution": "uniform", "a": 1, "mode": "fan_in"},
    "xavier": {"type": "Xavier", "layer": ["Conv2d", "Linear"], "gain": 2, "bias": 0.5},
    "normal": {"type": "Normal", "layer": "Linear", "mean": 1.0, "std": 0.01, "bias_prob": 0.01},
    "uniform": {"type": "Uniform", "layer": "Linear", "a": -1},
    "caffe2": {"type": "Caffe2Xavier", "layer": "Conv2d"},
    "by the class above": {"type": "Constant", "layer": "_BatchNorm", "val": 3, "bias": 4},
    "several": [{"type": "Kaiming", "layer": "Conv2d"}, {"type": "Constant", "layer": ["BatchNorm2d"], "val": 2}],
    "an override": {"type": "Xavier", "layer": "Conv2d", "override": {"type": "Normal", "name": "fc", "std": 0.1}},
    "an override of its own kind": {"type": "Normal", "std": 0.3, "override": [{"name": "fc"}, {"name": "out"}]},
    "nothing named": {"type": "Constant", "val": 1},
}


@pytest.mark.guest
@pytest.mark.parametrize("name", STARTS)
def test_weights_start_with_the_numbers_of_mmengine(name: str) -> None:
    initialize = guest("mmengine.model").initialize
    expected, found = _Net(), _Net()
    found.load_state_dict(expected.state_dict())
    torch.manual_seed(3)
    initialize(expected, STARTS[name])
    torch.manual_seed(3)
    start_weights(found, STARTS[name])
    for left, right in zip(found.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right)


def test_a_truncated_normal_keeps_its_bounds_and_its_spread() -> None:
    layer = nn.Linear(100, 100)
    start_weights(layer, {"type": "TruncNormal", "layer": "Linear", "std": 0.5, "a": -0.5, "b": 0.5})
    assert layer.weight.abs().max() <= 0.5
    assert layer.weight.std().item() == pytest.approx(0.5 * 0.5396, rel=0.05)  # of one cut at its own spread
    assert not layer.bias.any()


def test_an_init_cfg_of_a_part_and_of_the_model_fills_the_weights() -> None:
    head = {**CONFIG["head"], "init_cfg": {"type": "Constant", "layer": "Linear", "val": 2.0, "bias": 1.0}}
    model_start = [{"type": "Constant", "layer": "BatchNorm2d", "val": 0.25}]
    model = assemble({**CONFIG, "head": head, "init_cfg": model_start})
    assert (model.head.fc.weight == 2).all()
    assert (model.head.fc.bias == 1).all()
    assert all((m.weight == 0.25).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    again = assemble(model.config)
    assert again.config == model.config
    assert (again.head.fc.weight == 2).all()


def test_a_start_that_fills_nothing_is_a_remark() -> None:
    backbone = {**CONFIG["backbone"], "init_cfg": [{"type": "Kaiming"}, {"type": "Normal", "layer": "Conv9d"}]}
    remarks = assemble({**CONFIG, "backbone": backbone}).report.remarks
    assert "init_cfg Kaiming of `backbone` fills nothing: it names no layer" in remarks
    assert "init_cfg Normal of `backbone` fills nothing: no such layer is there" in remarks


REFUSED: dict[str, tuple[Any, str]] = {
    "a kind": ({"type": "Kaimin", "layer": "Conv2d"}, "found     'Kaimin'\n  try       Kaiming"),
    "an argument": ({"type": "Normal", "layer": "Conv2d", "stdd": 1}, "found     `stdd`"),
    "no value": ({"type": "Constant", "layer": "Conv2d"}, "a value for `val`"),
    "an override without its name": (
        {"type": "Normal", "override": {"type": "Normal"}},
        "an override with the name of a submodule",
    ),
    "an override of what is not there": ({"type": "Normal", "override": {"name": "fcc"}}, "has no attribute `fcc`"),
    "a norm's weight": ({"type": "Xavier", "layer": "BatchNorm2d"}, "fewer than 2 dimensions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_start_that_is_not_known_is_refused_at_its_place(name: str) -> None:
    start, said = REFUSED[name]
    with pytest.raises(AssemblyError) as caught:
        assemble({**CONFIG, "backbone": {**CONFIG["backbone"], "init_cfg": start}})
    assert said in str(caught.value)
    assert [fault.where for fault in caught.value.mismatches] == ["backbone.init_cfg"]


@pytest.mark.guest
@pytest.mark.parametrize(
    "arguments",
    [
        {"mean": MEAN, "std": STD, "bgr_to_rgb": True},
        {"mean": MEAN, "std": STD, "pad_size_divisor": 8, "pad_value": 2},
        {"mean": [127.5], "std": [127.5], "rgb_to_bgr": True},
        {},
    ],
)
def test_pixels_become_what_mmengine_makes_of_them(arguments: dict[str, Any]) -> None:
    theirs = guest("mmengine.model").ImgDataPreprocessor(**arguments)
    images = torch.randint(0, 256, (2, 3, 9, 13), dtype=torch.uint8)
    expected = theirs({"inputs": images, "data_samples": None})["inputs"]
    torch.testing.assert_close(ImagePreprocessor(**arguments)(images), expected)


def test_a_preprocessor_is_a_part_of_the_model_and_of_its_config() -> None:
    described = {"type": "DetDataPreprocessor", "mean": MEAN, "std": STD, "bgr_to_rgb": True, "pad_mask": True}
    torch.manual_seed(0)
    model = assemble({**CONFIG, "data_preprocessor": described}).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32)).float()
    normalised = (images[:, [2, 1, 0]] - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    expected = model.head(model.neck(model.backbone(normalised)[0]))
    torch.testing.assert_close(model(images), expected)
    assert model.report.parts[0].type == "DetDataPreprocessor"
    assert any("it takes the pixels as DetDataPreprocessor does" in remark for remark in model.report.remarks)
    assert "`data_preprocessor.pad_mask` is left out: the training loop does it" in model.report.remarks
    again = assemble(model.config)
    assert again.config == model.config
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(images), model(images))


def test_images_of_bytes_are_taken_where_there_is_a_preprocessor() -> None:
    described = {"mean": MEAN, "std": STD, "to_rgb": True}
    model = assemble({**CONFIG, "input": "u8[B, 3, 32, 32]", "data_preprocessor": described})
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    model(images, torch.tensor([1, 2]))["loss"].backward()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"type": "MyPreprocessor"}, "preprocessor.type (line 2)\n  expected  a registered preprocessor"),
        ({"mean": MEAN}, "mean and std go together, got 3 and 0 values"),
        ({"mean": MEAN, "std": STD, "lambda": 3}, "preprocessor.lambda"),
        ({"mean": [1, 2], "std": [1, 2]}, "mean has 2 channels, the images have 3"),
    ],
)
def test_a_preprocessor_that_is_not_known_is_refused_by_line(described: dict[str, Any], said: str) -> None:
    import json

    text = f"input: f32[B, 3, 32, 32]\ndata_preprocessor: {json.dumps(described)}\n"
    with pytest.raises(AssemblyError) as caught:
        assemble(text + "backbone: {type: ResNet, depth: 18}\nneck: GlobalAveragePooling\n")
    assert said in str(caught.value)
    assert "(line 2)" in caught.value.mismatches[0].where


def test_the_preprocessor_of_a_python_config_stands_beside_its_model(tmp_path: Any) -> None:
    path = tmp_path / "config.py"
    path.write_text(
        f"data_preprocessor = dict(num_classes=10, mean={MEAN}, std={STD}, to_rgb=True)\ndefault_scope = 'mmpretrain'\n"
        "model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18), "
        "neck=dict(type='GlobalAveragePooling'))\n"
    )
    assert assemble(path).report.parts[0].name == "preprocessor"
