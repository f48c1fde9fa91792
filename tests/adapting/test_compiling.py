"""Adapted modules compile to machine code without graph breaks and give the same values at sizes of any kind."""

from __future__ import annotations

import shutil

import pytest
import timm
import torch
from saved_models import LEVELS, contract, images
from small_models import Pyramid, image

import autoadapt as aa
from autoadapt.contracts.trees import flatten

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")

VIT = {"depth": 1, "embed_dim": 48, "num_heads": 3, "class_token": True}

ADAPTED = {
    "convolutions": lambda: aa.adapt(Pyramid(4), like=Pyramid(6), inputs=image()),
    "taps at one image size": lambda: aa.adapt(
        timm.create_model("vit_tiny_patch16_224", **VIT), like=contract(LEVELS[1:2]), inputs=images()
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="inductor needs a C++ compiler: apt-get install g++")
@pytest.mark.parametrize("name", ADAPTED)
@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_inductor_gives_the_values_of_eager_at_two_sizes_from_one_graph(name):
    net = ADAPTED[name]().eval()
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="inductor", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for x in (images(3, 64, 96), images(3, 97, 131)):
            expected, found = flatten(net(x))[1], flatten(compiled(x))[1]
            assert len(expected) == len(found)
            for left, right in zip(expected, found, strict=True):
                torch.testing.assert_close(right, left, atol=1e-4, rtol=1e-4)
    torch._dynamo.reset()
