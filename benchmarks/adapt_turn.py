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

COUNTED: list[tuple[str, tuple[int, ...]]] = []
"""Which network was run for real, and on images of which shape."""


def count(name: str, _stem: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    """A hook that a copy of a network shares with it."""
    if not args[0].is_meta:
        COUNTED.append((name, tuple(args[0].shape)))


def seconds(call: Callable[[], object]) -> float:
    """Processor time that a call takes, on one core: other programs on the machine do not count."""
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """Time `adapt` of a ResNet-18 like a ResNet-101 with whatever autoadapt is on the path, and its real passes."""
    torch.set_num_threads(1)
    models = {name: timm.create_model(name, features_only=True) for name in ("resnet101", "resnet18")}
    x = torch.randn(2, 3, 224, 224)
    handles = []
    for name, model in models.items():
        model.eval()
        handles.append(model.conv1.register_forward_pre_hook(functools.partial(count, name)))
    adapt = functools.partial(aa.adapt, models["resnet18"], like=models["resnet101"], inputs=x)
    adapt()  # first use of anything costs more
    passes = list(COUNTED)
    for handle in handles:
        handle.remove()
    times = [seconds(adapt) for _ in range(ROUNDS)]
    with torch.no_grad():
        spent = sum(seconds(functools.partial(models[name], torch.randn(shape))) for name, shape in passes)
    print(json.dumps({"times": times, "passes": passes, "spent": spent}))


if __name__ == "__main__":
    main()
