"""What a config in the literal form leaves open or says wrongly is told in its own words, not in those of a layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoadapt.assembly import CrossEntropyLoss, assemble
from autoadapt.errors import AssemblyError

NET: dict[str, Any] = {"type": "ResNet_CIFAR", "depth": 18, "num_stages": 1, "out_indices": (0,)}
HEAD: dict[str, Any] = {"type": "LinearClsHead", "num_classes": 4}
POOLED: dict[str, Any] = {"input": "f32[B, 3, 32, 32]", "backbone": NET, "neck": "GlobalAveragePooling"}


@pytest.mark.parametrize("given", [{"checkpoint": ""}, {"checkpoint": None}, {}])
def test_a_start_from_no_checkpoint_is_told_to_name_it(given: dict[str, Any]) -> None:
    start = {"type": "Pretrained", **given}
    with pytest.raises(AssemblyError) as caught:
        assemble({**POOLED, "backbone": {**NET, "init_cfg": start}, "head": HEAD}, allow=[""])
    (fault,) = caught.value.mismatches
    assert (fault.where, fault.found) == ("backbone.init_cfg.checkpoint", "none")
    assert fault.remedy == "name the file, or leave the entry out"


@pytest.mark.parametrize(
    ("key", "losses", "expected", "found"),
    [
        ("loss", ["CrossEntropyLoss", "L1Loss"], "one loss", "a list: CrossEntropyLoss, L1Loss"),
        ("loss", [], "one loss", "a list: empty"),
        (
            "loss_decode",
            [{"type": "CrossEntropyLoss"}, {"type": "LovaszLoss"}],
            "one loss, or a `loss_decode` of CrossEntropyLoss, DiceLoss, FocalLoss",
            "a list: CrossEntropyLoss, LovaszLoss",
        ),
    ],
)
def test_a_list_of_losses_that_are_not_added_up_is_refused_by_what_stands_in_it(
    key: str, losses: list[Any], expected: str, found: str
) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble({**POOLED, "head": {**HEAD, key: losses}})
    fault = caught.value.mismatches[0]
    assert (fault.where, fault.expected, fault.found) == (f"head.{key}", expected, found)


@pytest.mark.parametrize(
    ("prediction", "target", "said"),
    [
        (
            torch.zeros(2, 3, 4, 4),
            torch.zeros(2, 8, 8, dtype=torch.int64),
            r"\[2, 4, 4\], got \[2, 8, 8\]; DecodeLoss enl",
        ),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), r"prediction \[2, 3\] takes a target \[2\], got \[3\]$"),
        (torch.zeros(2, 3), torch.zeros(2, 4), r"prediction \[2, 3\] takes a target \[2, 3\], got \[2, 4\]$"),
        (
            torch.zeros(3, 3),
            torch.tensor([0, 255, 7]),
            r"0 to 2, or ignore_index=-100, got \[7, 255\]; ignore_index=7 leaves",
        ),
        (torch.zeros(2, 3), torch.tensor([0, -1]), r"got \[-1\]; ignore_index=-1 leaves it out"),
    ],
)
def test_targets_that_do_not_fit_are_told_what_would(prediction: torch.Tensor, target: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CrossEntropyLoss()(prediction, target)


def test_pixels_of_a_class_that_there_is_not_are_told_in_a_decode_loss_too() -> None:
    head = {"type": "FCNHead", "channels": 4, "num_convs": 0, "concat_input": False, "num_classes": 3}
    config = {"input": "f32[B, 3, 32, 32]", "backbone": NET}
    model = assemble({**config, "head": {**head, "loss_decode": {"type": "CrossEntropyLoss"}}})
    target = torch.zeros(2, 32, 32, dtype=torch.int64)
    target[0, 0] = 255
    assert model(torch.rand(2, 3, 32, 32), target)["loss"] > 0
    target[0, 1] = 3
    with pytest.raises(ValueError, match=r"0 to 2, or ignore_index=255, got \[3\]"):
        model(torch.rand(2, 3, 32, 32), target)


@pytest.mark.parametrize("size", [48, (48, 48)])
def test_images_are_of_the_size_that_the_backbone_says(size: Any) -> None:
    sizes = {"embed_dims": 8, "num_layers": 1, "num_heads": 2, "feedforward_channels": 16}
    backbone = {"type": "VisionTransformer", "arch": sizes, "img_size": size, "patch_size": 16}
    model = assemble({"backbone": backbone, "head": {"type": "VisionTransformerClsHead", "num_classes": 2}})
    assert model.config.input == "f32[B, 3, 48, 48]"
    assert model.report.plans == {}
    assert model(torch.rand(2, 3, 48, 48)).shape == (2, 2)
