"""Levels of vision transformers in the literal form, and the necks and heads that read them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autoadapt.assembly import assemble
from autoadapt.errors import AssemblyError

SMALL = "f32[B, 3, 32, 32]"
ARCH = {"embed_dims": 16, "num_layers": 4, "num_heads": 2, "feedforward_channels": 32}
VIT: dict[str, Any] = {"type": "VisionTransformer", "arch": ARCH, "img_size": 32, "patch_size": 8}
MMSEG: dict[str, Any] = {
    "type": "VisionTransformer",
    "img_size": (32, 32),
    "patch_size": 8,
    "in_channels": 3,
    "embed_dims": 16,
    "num_layers": 4,
    "num_heads": 2,
    "mlp_ratio": 2,
    "out_indices": (0, 1, 2, 3),
    "qkv_bias": True,
    "with_cls_token": True,
    "norm_cfg": {"type": "LN", "eps": 1e-6},
    "act_cfg": {"type": "GELU"},
    "norm_eval": False,
    "interpolate_mode": "bicubic",
}


def _blocks(net: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """All tokens behind each block."""
    found: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda m, i, output: found.append(output)) for block in net.blocks]
    net.forward_features(images)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["cls_token", "featmap", "avg_featmap"])
def test_each_block_gives_what_its_out_type_says_and_the_last_one_is_normalised(kind: str) -> None:
    backbone = {**VIT, "out_indices": [1, -1], "out_type": kind}
    model = assemble({"input": SMALL, "backbone": backbone}).eval()
    body, images = model.backbone.body, torch.rand(2, 3, 32, 32)
    blocks = _blocks(body.net, images)
    for found, tokens in zip(model(images), (blocks[1], body.net.norm(blocks[3])), strict=True):
        expected = {
            "cls_token": tokens[:, 0],
            "featmap": tokens[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2),
            "avg_featmap": body.ln2(tokens[:, 1:].mean(1)),
        }[kind]
        torch.testing.assert_close(found, expected)
    assert isinstance(body.ln2, nn.LayerNorm) == (kind == "avg_featmap")


def test_the_form_of_mmseg_gives_maps_that_are_not_normalised() -> None:
    model = assemble({"input": SMALL, "backbone": MMSEG}).eval()
    images = torch.rand(2, 3, 32, 32)
    expected = _blocks(model.backbone.body.net, images)
    for found, tokens in zip(model(images), expected, strict=True):
        torch.testing.assert_close(found, tokens[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2))


def test_a_pyramid_takes_every_block_at_the_stride_of_its_place() -> None:
    neck = {"type": "FPN", "in_channels": [16, 16, 16, 16], "out_channels": 8}
    model = assemble({"input": SMALL, "backbone": MMSEG, "neck": neck})
    assert [(given.source, given.stride) for given in model.report.parts[1].given] == [
        *(("backbone.0", 4), ("backbone.1", 8), ("backbone.2", 16)),
        ("backbone.c3", 32),
    ]
    found = model(torch.rand(2, 3, 32, 32))
    assert {name: tuple(level.shape[2:]) for name, level in found.items()} == {
        **{"p2": (8, 8), "p3": (4, 4)},
        **{"p4": (2, 2), "p5": (1, 1)},
    }
    sum(level.sum() for level in found.values()).backward()
    read = [module.weight.grad.any() for name, module in model.named_modules() if name.endswith("mlp.fc2")]
    assert len(read) == 4
    assert all(read)
    assert assemble(model.config).config == model.config


def test_a_neck_without_strides_takes_every_block_as_it_is() -> None:
    neck = {"type": "ChannelMapper", "in_channels": [16] * 4, "out_channels": 8, "kernel_size": 1}
    head = {"type": "FCNHead", "channels": 8, "num_classes": 2, "in_index": 2, "num_convs": 1}
    model = assemble({"input": SMALL, "backbone": MMSEG, "neck": neck, "head": head})
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 2, 4, 4)
    assert [given.source for given in model.report.parts[1].given] == [
        *("backbone.0", "backbone.1", "backbone.2"),
        "backbone.c3",
    ]
    assert assemble(model.config).config == model.config


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(AssemblyError, match="indices below 4, one for each block"):
        assemble({"input": SMALL, "backbone": {**VIT, "out_indices": (2, 4)}})


def test_every_level_of_a_detector_s_swin_has_its_norm() -> None:
    arch = {"embed_dims": 24, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2]}
    backbone = {"type": "SwinTransformer", "arch": arch, "img_size": 32, "patch_size": 2, "window_size": 2}
    model = assemble({"input": SMALL, "backbone": {**backbone, "out_indices": (0, 1, 2, 3)}}).eval()
    for level in model(torch.rand(2, 3, 32, 32)):
        torch.testing.assert_close(level.mean(1), torch.zeros_like(level[:, 0]), atol=1e-5, rtol=0)
    assert [tuple(norm.normalized_shape) for norm in model.backbone.body.norms.values()] == [(24,), (48,), (96,)]
