"""Backbones under their mm names compute, freeze and return what they do there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.assembly import assemble
from autoadapt.errors import AssemblyError

SIZES = {"embed_dims": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 1, 1]}
SWIN_DET: dict[str, Any] = {
    "type": "SwinTransformer",
    **SIZES,
    **{"window_size": 3, "mlp_ratio": 4, "qkv_bias": True, "qk_scale": None, "drop_rate": 0.0, "attn_drop_rate": 0.0},
    **{"drop_path_rate": 0.2, "patch_norm": True, "with_cp": False, "convert_weights": True, "frozen_stages": -1},
}
"""The backbone of mmdet's mask-rcnn_swin-t, made small."""
SWIN_PRE: dict[str, Any] = {"type": "SwinTransformer", "arch": SIZES, "img_size": 48, "window_size": 2}
VIT: dict[str, Any] = {
    "type": "VisionTransformer",
    "arch": {"embed_dims": 8, "num_layers": 2, "num_heads": 2, "feedforward_channels": 16},
    "img_size": 32,
}


def _backbone(config: dict[str, Any], size: str = "H, W") -> Any:
    return assemble({"input": f"f32[B, 3, {size}]", "backbone": config}).backbone


def _attended(block: Any, map_HWC: torch.Tensor) -> torch.Tensor:
    """What each cell of a padded map sees: the cells of its window, shifted, that were beside it before the shift."""
    (height, width), (window, _), (shift, _) = map_HWC.shape[:2], block.window_size, block.shift_size
    rows, columns = height + -height % window, width + -width % window
    padded = F.pad(map_HWC, (0, 0, 0, columns - width, 0, rows - height)).reshape(rows * columns, -1)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([(y.flatten() - shift) % rows, (x.flatten() - shift) % columns], 1)
    ends = torch.tensor([rows, columns])
    part = (places >= ends - window).long() + (places >= ends - shift).long() * bool(shift)
    seen = ((places[:, None] // window == places // window) & (part[:, None] == part)).all(-1)
    offset = (places[:, None] - places).clamp(1 - window, window - 1) + window - 1
    bias = block.attn.relative_position_bias_table[:, 0][offset[..., 0] * (2 * window - 1) + offset[..., 1]]
    query, key, value = block.attn.qkv(padded).chunk(3, -1)
    scores = query @ key.T * query.shape[-1] ** -0.5 + bias
    found = scores.masked_fill(~seen, -100.0 * 1e3).softmax(-1) @ value
    made: torch.Tensor = block.attn.proj(found).reshape(rows, columns, -1)[:height, :width]
    return made


@pytest.mark.sampled(1)
@pytest.mark.parametrize("which", [0, 1])
def test_windows_of_mmdets_swin_are_padded_before_they_are_shifted(which: int) -> None:
    torch.manual_seed(0)
    block = _backbone(SWIN_DET).body.net.layers[1].blocks[which].eval()
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    features = torch.randn(1, 5, 7, 16)
    assert (block.shift_size != (0, 0)) == bool(which)
    torch.testing.assert_close(block._attn(features)[0], _attended(block, features[0]), rtol=1e-4, atol=1e-5)


def test_mmdets_swin_takes_every_size_and_norms_each_level() -> None:
    backbone = _backbone(SWIN_DET).eval()
    for height, width in ((64, 64), (75, 130), (9, 40)):
        cells = [[-(-height // 4), -(-width // 4)]]
        for _ in range(3):
            cells.append([-(-size // 2) for size in cells[-1]])
        levels = backbone(torch.rand(1, 3, height, width))
        assert [list(level.shape[1:]) for level in levels] == [[8 << i, *at] for i, at in enumerate(cells)]
        for level in levels:
            torch.testing.assert_close(level.mean(1), torch.zeros_like(level[:, 0]), rtol=0, atol=1e-4)


def test_an_image_that_ends_within_a_patch_is_padded() -> None:
    backbone = _backbone(SWIN_DET).eval()
    image = torch.rand(1, 3, 22, 33)
    for found, expected in zip(backbone(image), backbone(F.pad(image, (0, 3, 0, 2))), strict=True):
        torch.testing.assert_close(found, expected)


FROZEN = {
    "mmdet's swin, the stem": ({**SWIN_DET, "frozen_stages": 0}, {"patch_embed"}),
    "mmdet's swin, a stage": (
        {**SWIN_DET, "frozen_stages": 1},
        {"patch_embed", "layers.0", "layers.1.downsample", "norms.0"},
    ),
    "mmpretrain's swin counts from its first stage": (
        {**SWIN_PRE, "frozen_stages": 0},
        {"patch_embed", "layers.0", "layers.1.downsample"},
    ),
    "a vision transformer without a frozen block": ({**VIT, "frozen_stages": 0}, set()),
    "its first block": (
        {**VIT, "frozen_stages": 1},
        {"cls_token", "pos_embed", "patch_embed", "blocks.0"},
    ),
    "all of its blocks": (
        {**VIT, "frozen_stages": 2},
        {"cls_token", "pos_embed", "patch_embed", "blocks.0", "blocks.1", "norm"},
    ),
    "mobilenet": ({"type": "MobileNetV3", "frozen_stages": 1}, {"features.0", "features.1"}),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", FROZEN)
def test_frozen_stages_are_counted_as_there(kind: str) -> None:
    config, expected = FROZEN[kind]
    size = "H, W" if config["type"] != "VisionTransformer" else "32, 32"
    backbone = _backbone(config, "48, 48" if config["type"] == SWIN_PRE["type"] and "arch" in config else size).train()
    for name, parameter in backbone.body.named_parameters():
        own = name.removeprefix("net.")
        assert parameter.requires_grad != any(own == each or own.startswith(f"{each}.") for each in expected), name
    assert all(not module.training for name, module in backbone.body.named_modules() if name[4:] in expected and name)


def test_the_frozen_stem_of_mobilenet_v2_goes_on_with_its_averages_as_there() -> None:
    """There only the weights of `conv1` are frozen, and the layers behind it are put into eval mode."""
    backbone = _backbone({"type": "MobileNetV2", "widen_factor": 0.1, "frozen_stages": 1}).train()
    norms = {name: module for name, module in backbone.body.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: norm.running_mean.clone() for name, norm in norms.items()}
    backbone(torch.rand(2, 3, 32, 32))
    still = {name for name, norm in norms.items() if torch.equal(norm.running_mean, before[name])}
    assert still == {name for name in norms if name.startswith("features.1.")}
    assert not any(
        p.requires_grad for name, p in backbone.body.named_parameters() if name[:11] in {"features.0.", "features.1."}
    )


def test_a_stage_that_there_is_not_cannot_be_frozen() -> None:
    with pytest.raises(AssemblyError, match="frozen_stages"):
        _backbone({**SWIN_DET, "frozen_stages": 5})


@pytest.mark.slow
def test_the_small_resnet_is_read_as_it_is_published() -> None:
    published = {"type": "ResNet_CIFAR", "depth": 18, "num_stages": 4, "style": "pytorch"}
    head = {"type": "LinearClsHead", "num_classes": 10, "in_channels": 512}
    parts = {"backbone": {**published, "out_indices": (3,)}, "neck": {"type": "GlobalAveragePooling"}, "head": head}
    model = assemble({"input": "f32[B, 3, 32, 32]", "model": {"type": "ImageClassifier", **parts}})
    images = torch.rand(2, 3, 32, 32)
    assert model.eval()(images).shape == (2, 10)
    every = _backbone({**published, "num_stages": 2}).eval()
    some = _backbone({**published, "out_indices": (1,)}).eval()
    some.load_state_dict({**some.state_dict(), **every.state_dict()})
    torch.testing.assert_close(some(images)[0], every(images)[1])
    with pytest.raises(AssemblyError, match="has the stages 0 to 3"):
        _backbone({**published, "out_indices": (4,)})
