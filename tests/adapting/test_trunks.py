"""Levels of models that bring no list of them: the last block of each stage, in the order in which blocks run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from guests import guest
from torch import nn

import autoadapt as aa
from autoadapt.contracts.capturing import capture

transformers = pytest.importorskip("transformers")

STRIDES = (4, 8, 16, 32)
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "image_size": 32,
    "patch_size": 8,
}


def contract(*strides: int) -> aa.Signature:
    levels = [f"f32[B, {8 * s}, ceil(H/{s}), ceil(W/{s})]" for s in strides]
    return aa.Signature.parse(levels, inputs={"x": "f32[B, 3, H, W]"})


def taken(model: nn.Module, size: int, *strides: int) -> list[str]:
    signature = capture(model.eval(), torch.zeros(1, 3, size, size), inner=True, confirm=False)
    return [route.source for route in aa.plan(signature, contract(*strides)).routes]


def pvt() -> nn.Module:
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
    return transformers.PvtV2ForImageClassification(transformers.PvtV2Config(**sizes, mlp_ratios=[1, 1, 1, 1]))


def swin() -> nn.Module:
    config = transformers.SwinConfig(embed_dim=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 2, 2])
    return transformers.SwinForImageClassification(config)


def levit() -> nn.Module:
    sizes = {"hidden_sizes": [32, 48, 64], "depths": [2, 2, 2], "num_attention_heads": [2, 2, 2]}
    return transformers.LevitForImageClassification(transformers.LevitConfig(**sizes, key_dim=[8, 8, 8]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (pvt, ["pvt_v2.encoder.layers.0:0.0", "pvt_v2.encoder.layers.1:0.0", "pvt_v2.encoder.layers.2:0.0"]),
        (
            swin,
            [
                "swin.encoder.layers.0.blocks.1:0",
                "swin.encoder.layers.1.blocks.1:0",
                "swin.encoder.layers.2.blocks.1:0",
            ],
        ),
    ],
)
def test_a_stage_ends_with_its_last_block_not_with_what_is_nested_least(make: Callable[[], nn.Module], expected: Any):
    found = taken(make(), 224, *STRIDES)
    assert found[:3] == expected
    assert found[3].endswith(":last_hidden_state")  # never the weights of attention, which are as many as tokens


@pytest.mark.slow
def test_blocks_behind_an_embedding_count_although_they_are_nested_more_than_it():
    assert taken(levit(), 224, 16) == ["levit.encoder.stages.0.layers.3"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["ViT", "DeiT"])
def test_the_blocks_inside_a_wrapped_trunk_are_shared_out(kind):
    config = getattr(transformers, f"{kind}Config")(**SMALL)
    model = getattr(transformers, f"{kind}ForImageClassification")(config)
    prefix = kind.lower()
    inner = [
        f"{prefix}.{'layers' if hasattr(getattr(model, prefix), 'layers') else 'encoder.layer'}.{i}" for i in range(3)
    ]
    assert taken(model, 32, 2, 4, 8, 16) == [*inner, f"{prefix}:last_hidden_state"]


class Attention(nn.Module):
    """Weights of attention come out of a module of their own, as in most papers' code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.keys, self.values, self.attend = nn.Linear(width, width), nn.Linear(width, width), nn.Softmax(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attend(self.keys(x) @ self.keys(x).transpose(1, 2)) @ self.values(x)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.mix = Attention(width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        return x + self.mix(x)


class Tokens(nn.Module):
    """As many channels as tokens at 32 pixels, so that numbers alone do not tell attention from maps."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.blocks = nn.ModuleList(Block(16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


def test_nothing_inside_attention_is_a_level():
    signature = capture(Tokens().eval(), torch.zeros(1, 3, 32, 32), inner=True)
    within = {output.module for output in signature.inner if output.attention}
    assert within == {f"blocks.{i}.attention.{part}" for i in range(3) for part in ("keys", "values", "attend")}
    routes = aa.plan(signature, contract(2, 4, 8)).routes
    assert [route.source for route in routes] == ["blocks.0", "blocks.1", "blocks.2"]


@pytest.mark.guest
def test_attention_of_a_paper_implementation_is_no_level():
    made = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 32}
    found = taken(guest("vit_pytorch.simple_vit").SimpleViT(**made), 32, *STRIDES)
    assert not [name for name in found if "attend" in name or "to_qkv" in name], found


def test_an_output_is_the_deepest_level_and_leaves_the_shallower_to_the_blocks():
    model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL))
    found = taken(model, 32, 2, 4, 8, 16)
    assert found[3] == "last_hidden_state"
    assert [name.partition("layers.")[2] for name in found[:3]] == ["0", "1", "2"]


def test_a_single_level_of_tokens_comes_from_the_output_itself():
    assert taken(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL)), 32, 16) == ["last_hidden_state"]


TINY = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}


def audio() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    config = transformers.ASTConfig(**TINY, max_length=32, num_mel_bins=32, patch_size=8)
    make = transformers.ASTForAudioClassification, transformers.ASTModel
    return make[0](config), make[1](config), torch.randn(2, 32, 32)


def video() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    config = transformers.VideoMAEConfig(**TINY, image_size=32, patch_size=8, num_frames=4)
    make = transformers.VideoMAEForVideoClassification, transformers.VideoMAEModel
    return make[0](config), make[1](config), torch.randn(2, 4, 3, 32, 32)


def speech() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """With as many letters as channels, so that scores have the shape of features."""
    layers = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2}
    places = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = transformers.Wav2Vec2Config(**TINY, **layers, **places, vocab_size=16)
    return transformers.Wav2Vec2ForCTC(config), transformers.Wav2Vec2Model(config), torch.randn(2, 200)


@pytest.mark.slow
@pytest.mark.parametrize("make", [audio, video, speech])
def test_what_a_wrapped_trunk_returns_under_the_wanted_name_goes_before_scores(make):
    torch.manual_seed(0)
    new, old, x = make()
    net = aa.adapt(new.eval(), like=old.eval(), inputs=x, outputs=["last_hidden_state"])
    trunk = next(module for module in new.children() if type(module) is type(old))
    assert torch.allclose(net(x).last_hidden_state, trunk(x).last_hidden_state)
    assert not net.plan.routes[0].steps
