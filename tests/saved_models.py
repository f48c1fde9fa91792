"""Ten adapted models of different kinds, each trained for a step, so that no weight or statistic is as it was made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from point_clouds import READ, PointNet, cloud
from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import autoadapt as aa
from autoadapt.contracts.trees import flatten
from autoadapt.sources import load_backbone


@dataclass(frozen=True)
class Made:
    """An adapted module, the module it was made from, and an example call."""

    net: aa.AdaptedModule
    new: nn.Module
    inputs: tuple[Any, ...]

    def outputs(self, net: nn.Module, *, seed: int = 0) -> tuple[object, list[torch.Tensor]]:
        """Containers and tensors that a copy of a module returns in eval mode; arguments are not touched."""
        with torch.no_grad():
            return flatten(net.eval()(*copy.deepcopy(self.inputs)))

    def same(self, other: nn.Module) -> bool:
        """Whether another module gives the same containers and bits."""
        (tree, tensors), (other_tree, others) = self.outputs(self.net), self.outputs(other)
        equal = [a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(tensors, others, strict=True)]
        return tree == other_tree and all(equal)


def images(channels: int = 3, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(height + width))


LEVELS = [f"f32[B, {64 * 2**i}, ceil(H/{2**i}), ceil(W/{2**i})]" for i in range(2, 5)]
POINTS = "point_clouds:PointTransformer"


def contract(outputs: object, channels: int = 3) -> aa.Signature:
    return aa.Signature.parse(outputs, inputs=f"f32[B, {channels}, H, W]")


Recipe: TypeAlias = Callable[[], tuple[nn.Module, Any, tuple[Any, ...], dict[str, Any]]]
"""The new backbone, the contract that it is to keep, an example call, and options of `adapt`."""

KINDS: dict[str, Recipe] = {
    "timm levels": lambda: (
        aa.load("timm:resnet18", features_only=True),
        aa.load("timm:resnet50", features_only=True),
        (images(),),
        {},
    ),
    "vit with taps, at one size": lambda: (
        aa.load("timm:vit_tiny_patch16_224", depth=3),
        contract(LEVELS),
        (images(),),
        {},
    ),
    "swin": lambda: (
        aa.load("timm:swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)),
        contract(LEVELS),
        (images(),),
        {},
    ),
    "torchvision classifier with taps": lambda: (
        aa.load("torchvision:mobilenet_v2"),
        contract(LEVELS),
        (images(),),
        {},
    ),
    "an ordered dict, as of a feature pyramid": lambda: (
        aa.load("timm:convnext_atto", features_only=True),
        resnet_fpn_backbone(backbone_name="resnet18", weights=None),
        (images(),),
        {},
    ),
    "points": lambda: (
        aa.load(POINTS, allow=["point_clouds"]),
        PointNet(),
        (cloud(), {}),
        {"outputs": READ},
    ),
    "points, thinned": lambda: (
        aa.load(POINTS, allow=["point_clouds"], count=24),
        PointNet(),
        (cloud(), {}),
        {"outputs": READ},
    ),
    "a class of transformers": lambda: (
        aa.load("timm:resnet18", features_only=True),
        load_backbone("hf:convnext", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
        (images(),),
        {},
    ),
    "an encoder that returns its input": lambda: (
        load_backbone("hf:resnet", depths=[1, 1, 1, 1], embedding_size=8, hidden_sizes=[8, 16, 24, 32]),
        aa.load("smp:resnet18"),
        (images(),),
        {},
    ),
    "images of four channels, one vector": lambda: (
        aa.load("timm:efficientnet_lite0"),
        contract({"embedding": "f32[B, 7]"}, channels=4),
        (images(4),),
        {},
    ),
}


@cache
def made(kind: str) -> Made:
    """The adapted module of a kind; nobody changes it."""
    return trained(KINDS[kind])


def trained(recipe: Recipe) -> Made:
    """What a recipe adapts, trained for a step."""
    torch.manual_seed(0)
    new, like, inputs, options = recipe()
    net = aa.adapt(new, like=like, inputs=inputs, share=False, **options)
    train_a_step(net, inputs)
    return Made(net.eval(), new, inputs)


def train_a_step(net: nn.Module, inputs: tuple[Any, ...]) -> None:
    """One step of training on outputs that learn: weights, statistics and counters change."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, weight_decay=0.1)
    learned = [tensor for tensor in flatten(net(*copy.deepcopy(inputs)))[1] if tensor.requires_grad]
    torch.stack([tensor.float().square().mean() for tensor in learned]).sum().backward()
    optimizer.step()
    net.zero_grad()
