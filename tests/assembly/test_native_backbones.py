"""Configs whose backbone was built for one image size: the config's images are read at their own."""

from __future__ import annotations

import pytest
import timm
import torch

from autoadapt.assembly import AssembledModel, assemble, describe
from autoadapt.errors import AssemblyError

CONFIG = """
input: f32[B, 3, {size}]
backbone: {{type: "timm:vit_tiny_patch16_224", img_size: 32, patch_size: 8, embed_dim: 24, depth: 2, num_heads: 3}}
neck: {{type: FPN, out_channels: 8}}
{more}
"""


def assembled(size: str = "48, 72", more: str = "") -> AssembledModel:
    torch.manual_seed(0)
    return assemble(CONFIG.format(size=size, more=more)).eval()


@pytest.mark.slow
def test_the_tokens_follow_the_image() -> None:
    made = assembled()
    ops = [step.op for step in made.report.plans["backbone"].inputs[0].steps]
    assert ops == ["native"]
    like = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, dynamic_img_size=True
    ).eval()
    like.load_state_dict(made.get_submodule("backbone.backbone").state_dict(), strict=False)
    seen: list[torch.Tensor] = []
    made.get_submodule("backbone.backbone.blocks.1").register_forward_hook(lambda *call: seen.append(call[2]))
    like.blocks[1].register_forward_hook(lambda *call: seen.append(call[2]))
    image = torch.randn(1, 3, 48, 72)
    with torch.no_grad():
        made(image)
        like(image)
    assert seen[0].shape == (1, 1 + 6 * 9, 24)
    assert torch.equal(*seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "more", "steps"),
    [
        ("48, 72", "adapt: {resolution: fixed}", ["resize"]),
        ("H, W", "adapt: {fit: pad}", ["native", "pad"]),
        ("H, W", "", ["native", "resize"]),
    ],
)
def test_configs_say_how_images_are_read_and_written_out_say_it_again(size: str, more: str, steps: list[str]) -> None:
    made = assembled(size, more)
    assert [step.op for step in made.report.plans["backbone"].inputs[0].steps] == steps
    again = assemble(describe(made)).eval()
    again.load_state_dict(made.state_dict())
    assert describe(again).get("adapt") == describe(made).get("adapt")
    image = torch.randn(1, 3, 48, 72) if size == "48, 72" else torch.randn(1, 3, 45, 61)
    with torch.no_grad():
        assert all(map(torch.equal, made(image).values(), again(image).values()))


def test_padded_levels_of_a_config_end_where_the_image_does() -> None:
    made = assembled("H, W", "adapt: {fit: pad}").get_submodule("backbone")
    image = torch.randn(1, 3, 41, 59)
    with torch.no_grad():
        found = list(made(image).values())
        padded = list(made(torch.nn.functional.pad(image, (0, 5, 0, 7))).values())
    assert found[0].shape[2:] == (11, 15)
    for level, whole in zip(found, padded, strict=True):
        high, wide = level.shape[2:]
        assert torch.allclose(level, whole[:, :, :high, :wide], atol=1e-5)


def test_a_contract_of_the_config_is_served_from_images_at_their_own_size() -> None:
    like = 'adapt: {like: ["f32[B, 16, ceil(H/8), ceil(W/8)]", "f32[B, 32, ceil(H/16), ceil(W/16)]"]}'
    made = assembled(more=like)
    assert made.report.plans["backbone (adapt.like)"].inputs[0].steps[0].op == "native"


def test_another_word_is_refused_with_its_line() -> None:
    with pytest.raises(AssemblyError, match=r"adapt\.resolution \(line 5\)\n  expected  'native' or 'fixed'"):
        assembled(more="adapt: {resolution: big}")
