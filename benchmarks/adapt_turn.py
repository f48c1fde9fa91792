"""A turn of `adapt_time --against`: adapts a ResNet-18 like a ResNet-101 with whatever autoadapt is on the path.

Imports nothing of autoadapt but its public names, so that it runs with older versions too.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

import autoadapt as aa

ROUNDS = 5

COUNTED: list[tuple[int, ...]] = []
"""Shapes of the images that the stems of the two networks have seen, where these had values."""


def note(_stem: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    """A hook that a copy of a network shares with it."""
    if not args[0].is_meta:
        COUNTED.append(tuple(args[0].shape))


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Time `adapt` of a ResNet-18 like a ResNet-101 with whatever autoadapt is on the path, and its real passes."""
    torch.set_num_threads(1)
    old, new = (timm.create_model(name, features_only=True).eval() for name in ("resnet101", "resnet18"))
    x = torch.randn(2, 3, 224, 224)
    handles = [module.conv1.register_forward_pre_hook(note) for module in (old, new)]
    aa.adapt(new, like=old, inputs=x)  # first use of anything costs more
    passes = list(COUNTED)
    for handle in handles:
        handle.remove()
    times = [seconds(lambda: aa.adapt(new, like=old, inputs=x)) for _ in range(ROUNDS)]
    with torch.no_grad():
        halves = zip((old, new), (passes[: len(passes) // 2], passes[len(passes) // 2 :]), strict=True)
        spent = sum(seconds(functools.partial(module, torch.randn(shape))) for module, some in halves for shape in some)
    print(json.dumps({"times": times, "passes": passes, "spent": spent}))


if __name__ == "__main__":
    main()
