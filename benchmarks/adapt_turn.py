"""A turn of `adapt_time --against`: adapts a ResNet-18 like a ResNet-101 with whatever autoadapt is on the path.

Imports nothing of autoadapt but its public names, so that it runs with older versions too.
"""

from __future__ import annotations

import functools
import json
import time

import timm
import torch
from torch import nn

import autoadapt as aa

ROUNDS = 7

Passes = list[tuple[str, tuple[int, ...], float]]
"""Which network was run for real, on images of which shape, and for how many seconds."""


class Counted:
    """Notes each real pass of a network, by hooks that its copies share with it."""

    def __init__(self, name: str, noted: Passes) -> None:
        self._name = name
        self._noted = noted
        self._began = 0.0

    def __deepcopy__(self, memo: object) -> Counted:
        return self

    def begin(self, _network: nn.Module, _args: object) -> None:
        self._began = time.process_time()

    def end(self, _network: nn.Module, args: tuple[torch.Tensor, ...], _output: object) -> None:
        if not args[0].is_meta:
            self._noted.append((self._name, tuple(args[0].shape), time.process_time() - self._began))


def main() -> None:
    """Time `adapt` of a ResNet-18 like a ResNet-101 with whatever autoadapt is on the path, and the real passes in it.

    That is processor time on one core: other programs on the machine do not count.
    """
    torch.set_num_threads(1)
    noted: Passes = []
    models = {name: timm.create_model(name, features_only=True) for name in ("resnet101", "resnet18")}
    x = torch.randn(2, 3, 224, 224)
    for name, model in models.items():
        model.eval()
        counted = Counted(name, noted)
        model.register_forward_pre_hook(counted.begin)
        model.register_forward_hook(counted.end)
    adapt = functools.partial(aa.adapt, models["resnet18"], like=models["resnet101"], inputs=x)
    adapt()  # first use of anything costs more
    turns = []
    for _ in range(ROUNDS):
        noted.clear()
        start = time.process_time()
        adapt()
        turns.append((time.process_time() - start, sum(seconds for *_, seconds in noted)))
    print(json.dumps({"turns": turns, "passes": [one[:2] for one in noted]}))


if __name__ == "__main__":
    main()
