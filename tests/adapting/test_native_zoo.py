"""Whole models that were built for one image size, in the contract of a ResNet-50: what is listed of each holds."""

from __future__ import annotations

import functools
import re
import warnings

import pytest
import timm
import torch
from torch import nn

import autoadapt as aa
from benchmarks import native_sizes

NATIVE = (
    "timm:vit_tiny_patch16_224",
    "timm:vit_base_patch32_clip_224",
    "timm:vit_small_patch14_reg4_dinov2",
    "timm:vit_base_patch32_siglip_256",
    "timm:flexivit_small",
    "timm:deit_tiny_distilled_patch16_224",
    "timm:deit3_small_patch16_224",
    "timm:eva02_tiny_patch14_224",
    "timm:vit_small_patch16_rope_224",
    "timm:vitamin_small_224",
    "timm:cait_xxs24_224",
    "timm:pit_ti_224",
    "timm:volo_d1_224",
    "timm:beit_base_patch16_224",
    "timm:visformer_tiny",
    "transformers:ViT",
    "transformers:DeiT",
    "transformers:CLIPVision",
    "transformers:SiglipVision",
    "transformers:IJepa",
    "torchvision:vit_b_16",
)
EAGER_ALONE = (
    "timm:vit_small_r26_s32_224",
    "timm:swin_tiny_patch4_window7_224",
    "timm:swin_s3_tiny_224",
    "timm:swinv2_tiny_window8_256",
    "timm:swinv2_cr_tiny_ns_224",
)
"""Neither compiled nor exported at sizes that vary, which an export says by name."""
MAKE = dict(native_sizes.models())
SIX_BLOCKS = re.compile("timm:(vit_.*patch|flexivit|deit|eva|beit|cait)")
"""Those of which six blocks show what twelve do; the benchmark has them whole."""


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    is_long = SIX_BLOCKS.match(name)
    return (timm.create_model(name.removeprefix("timm:"), depth=6) if is_long else MAKE[name]()).eval()


@functools.cache
def old() -> tuple[aa.Signature, nn.Module]:
    """The contract, and the module without values, which tells shapes."""
    module = timm.create_model("resnet50", features_only=True).eval()
    return aa.capture(module, torch.zeros(1, 3, 224, 224)), module.to("meta")


def adapted(model: nn.Module) -> aa.AdaptedModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return aa.adapt(model, like=old()[0], inputs=torch.zeros(1, 3, 224, 224)).eval()


def is_exact(net: nn.Module, size: tuple[int, int]) -> bool:
    shapes = [one.shape for one in old()[1](torch.empty(1, 3, *size, device="meta"))]
    with torch.no_grad():
        return [one.shape for one in net(torch.randn(1, 3, *size))] == shapes


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NATIVE, *EAGER_ALONE])
def test_it_reads_images_of_all_sizes_exactly_and_at_its_own_returns_the_same(name: str) -> None:
    model = made(name)
    net = adapted(model)
    assert net.plan.inputs[0].steps[0].op == "native"
    assert all(is_exact(net, size) for size in ((320, 240), (97, 131), (224, 224)))
    assert bool(net.plan.untraced) == (name in EAGER_ALONE)
    assert native_sizes.own_size(model) == "bit-equal"


@pytest.mark.slow
@pytest.mark.parametrize("name", NATIVE[6::3])  # all of them: benchmarks.native_sizes --traced
def test_it_compiles_and_exports_for_sizes_that_vary(name: str) -> None:
    net = adapted(made(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert native_sizes.trace(net) == "compile: equal, export: equal"


@pytest.mark.slow
@pytest.mark.parametrize("name", EAGER_ALONE[:2])
def test_an_export_of_it_at_sizes_that_vary_is_refused_at_once(name: str, tmp_path) -> None:
    with pytest.raises(aa.ExportError, match="exported for one size alone"):
        aa.export(adapted(made(name)), tmp_path / "net.pt2")
