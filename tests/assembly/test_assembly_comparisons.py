"""A comparison assembles every backbone of a list and tells what each costs and what changes."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from autoadapt.assembly import Comparison, Registry, compare
from autoadapt.assembly.necks import GlobalAveragePooling
from autoadapt.errors import AssemblyError

CONFIG = """
input: f32[B, 3, 32, 32]
backbone: [ResNet_CIFAR, 'timm:resnet18', {type: 'timm:mobilenetv2_050'}, {type: 'timm:resnt'}]
neck: {type: FPN, out_channels: 16, strides: [8]}
head: {type: DenseHead, num_classes: 10}
"""


@pytest.mark.slow
def test_backbones_are_compared_by_what_they_cost_and_change() -> None:
    comparison = compare(
        CONFIG.replace("FPN, out_channels: 16, strides: [8]", "GlobalAveragePooling").replace("Dense", "MLP")
    )
    small, big, _, missing = comparison.rows
    assert small.multiply_adds > 10 * big.multiply_adds > 0
    assert small.weight_bytes > 4 * small.parameters
    assert small.peak_bytes >= 4 * (3 * 64 * 32 * 32)  # a block's input and its two convolutions at full resolution
    assert small.seconds > 0
    assert "no such model" in missing.fault
    assert ("timm:resnet18", "neck") in [change[:2] for change in comparison.changes]
    text = str(comparison)
    assert re.search(r"^ ResNet_CIFAR +11\.3M +none +5\d\dM +[\d.]+ +43\.\d +\d", text, re.MULTILINE)
    assert "stride 8 (4x4 cells) -> stride 32 (1x1 cells), though the channels agree (512)" in text
    assert "does not fit: timm:resnt" in text
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_adapters_are_counted_by_themselves() -> None:
    text = "input: f32[B, 3, 32, 32]\nbackbone: [ResNet_CIFAR]\nneck: {type: FPN, in_channels: [8, 8, 8, 8]}\n"
    (row,) = compare(text).rows
    assert row.adapter_parameters == sum(8 * width + 8 for width in (256, 512, 512, 512))


def test_multiply_adds_and_peak_of_one_convolution_are_exact() -> None:
    registry = Registry()
    registry.register("neck")(GlobalAveragePooling)

    @registry.register("backbone")
    class Convolution(nn.Module):
        def __init__(self, in_channels: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(in_channels, 4, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    (row,) = compare("input: f32[B, 3, 8, 8]\nbackbone: [Convolution]\n", registry=registry).rows
    assert row.multiply_adds == 3 * 4 * 64
    assert row.peak_bytes == 4 * 4 * 64
    assert (row.parameters, row.weight_bytes) == (12, 48)


def test_the_peak_counts_only_what_is_alive_at_once() -> None:
    registry = Registry()

    @registry.register("backbone")
    class Chain(nn.Module):
        def __init__(self, in_channels: int) -> None:
            super().__init__()
            self.convs = nn.Sequential(*(nn.Conv2d(in_channels, in_channels, 1, bias=False) for _ in range(4)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convs(x)

    (row,) = compare("input: f32[B, 3, 8, 8]\nbackbone: [Chain]\n", registry=registry).rows
    assert row.peak_bytes == 2 * 4 * 3 * 64


def test_a_faulty_config_is_a_fault_of_the_config() -> None:
    with pytest.raises(AssemblyError, match="bakbone"):
        compare("input: f32[B, 3, 8, 8]\nbakbone: [ResNet_CIFAR]\n")
