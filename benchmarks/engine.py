"""What the engine costs: `adapt` beside torchvision's feature extractor, and the passes of `swap` and `verify`.

    python -m benchmarks.engine
    python -m benchmarks.engine --only adapt
    PYTHONPATH=../earlier python benchmarks/engine.py    # a checkout of another version

One core, one process; `adapt` and the peer take turns, and medians of processor time are compared, since the machine is
shared. The peer, `torchvision.models.feature_extraction.create_feature_extractor`, taps the same inner modules and
checks nothing. Passes are counted by hooks that all copies of a module share, those with values and those without.
"""

from __future__ import annotations

import argparse
import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.showing.tables import columns

ROUNDS = 3
PEERS = ("resnet18", "vit_base_patch16_224", "convnext_tiny", "swin_tiny_patch4_window7_224")
"""Names in timm."""
TAPS = {
    "resnet": ["act1", "layer1", "layer2", "layer3", "layer4"],
    "convnext": [f"stages_{i}" for i in range(4)],
    "swin": [f"layers.{i}" for i in range(4)],
}


class Passes:
    """Counts the passes of a module, and times those with values, by hooks that its copies share, pickled ones too."""

    made: ClassVar[dict[int, Passes]] = {}

    def __init__(self, module: nn.Module) -> None:
        self.real, self.without, self.seconds, self._began = 0, 0, 0.0, 0.0
        self.places: Counter[tuple[str, str]] = Counter()
        self.made[id(self)] = self
        module.register_forward_pre_hook(self.begin)
        module.register_forward_hook(self.end)

    def __deepcopy__(self, memo: object) -> Passes:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _counting, (id(self),)

    def begin(self, _module: nn.Module, _args: object) -> None:
        self._began = time.process_time()

    def end(self, _module: nn.Module, args: tuple[Any, ...], _output: object) -> None:
        tensor = args[0] if isinstance(args[0], torch.Tensor) else args[0][0]
        self.without += tensor.is_meta
        self.real += not tensor.is_meta
        self.seconds += 0.0 if tensor.is_meta else time.process_time() - self._began
        shape = "x".join(map(str, tensor.shape))
        self.places[f"{shape}{' without values' if tensor.is_meta else ''}", _asked_by()] += 1

    def clear(self) -> None:
        """Count from 0."""
        self.real, self.without, self.seconds = 0, 0, 0.0
        self.places.clear()


def _counting(number: int) -> Passes:
    return Passes.made[number]


def _asked_by() -> str:
    """The files of the package that led to a pass, the last of them."""
    frames = [one for one in traceback.extract_stack() if "/autoadapt/" in one.filename]
    names = [one.filename.rpartition("/")[2].removesuffix(".py") for one in frames]
    told = [name for name in dict.fromkeys(names) if name not in ("arguments", "caches", "other_threads", "probing")]
    return " > ".join(told[-3:])


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def against_the_extractor() -> str:
    """`adapt` like a ResNet-101 beside the extractor on the same model."""
    import timm
    from torchvision.models.feature_extraction import create_feature_extractor

    x = torch.randn(2, 3, 224, 224)
    old = aa.capture(in_eval_mode(timm.create_model("resnet101", features_only=True)), x)
    rows = [
        ("like ResNet-101 features", "adapt", "real passes", "beside them", "without values", "extractor", "ratios")
    ]
    for name in PEERS:
        features = {"features_only": True} if name.startswith("resnet") else {}
        model = in_eval_mode(timm.create_model(name, **features))
        passes = Passes(model)
        taps = next(
            (taps for key, taps in TAPS.items() if name.startswith(key)), [f"blocks.{i}" for i in (1, 4, 6, 9, 11)]
        )
        peer_model = in_eval_mode(timm.create_model(name, features_only=True)) if name.startswith("convnext") else model

        def adapt(model: nn.Module = model) -> object:
            return aa.adapt(model, like=old, inputs=x)

        def peer(model: nn.Module = peer_model, taps: list[str] = taps) -> object:
            return create_feature_extractor(model, taps)

        adapt(), peer()  # the first use of anything costs more
        found = []
        for _ in range(ROUNDS):
            passes.clear()
            found.append((seconds(adapt), passes.seconds, seconds(peer)))
        whole, real, theirs = map(statistics.median, zip(*found, strict=True))
        beside = statistics.median(one - spent for one, spent, _ in found)
        ratios = f"{whole / theirs:.1f}, {beside / theirs:.1f} beside"
        counts = f"{passes.real} in {real:.2f} s", f"{beside:.2f} s", str(passes.without)
        rows.append((name, f"{whole:.2f} s", *counts, f"{theirs:.2f} s", ratios))
    return "\n".join(columns(rows, align="lrrrrrl"))


def swap_of_a_detector() -> str:
    """The passes of the whole and of both backbones while a Faster R-CNN gets another one."""
    import timm
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    model = in_eval_mode(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None))
    new = in_eval_mode(timm.create_model("resnet18", features_only=True))
    images = [torch.rand(3, 320, 320)]
    with torch.no_grad():
        forward = seconds(lambda: model(images))
    counted = {"the whole": Passes(model), "old body": Passes(model.backbone.body), "new": Passes(new)}
    took = seconds(lambda: aa.swap(model, "backbone.body", new, inputs=(images,)))
    rows = [("swap", "passes", "images", "asked for by")]
    for name, passes in counted.items():
        rows += [(name, str(count), shape, place) for (shape, place), count in passes.places.items()]
    told = f"{took:.2f} s, {took / forward:.1f} forwards of the whole in time, {counted['the whole'].real} of it"
    return "\n".join([told, *columns(rows, align="lrll")])


def passes_of_verify() -> str:
    """Passes of the default `verify` of a ResNet-18 like a ResNet-34."""
    import timm

    x = torch.randn(2, 3, 224, 224)
    old = in_eval_mode(timm.create_model("resnet34", features_only=True))
    net = aa.adapt(timm.create_model("resnet18", features_only=True), like=old, inputs=x)
    net.verify(x)
    passes = Passes(net.backbone)
    took = seconds(lambda: net.verify(x))
    return f"verify: {took:.2f} s, {passes.real} passes with values in {passes.seconds:.2f} s, {passes.without} without"


class Many(nn.Module):
    """As many outputs as asked for, of one convolution each, in a row."""

    def __init__(self, convolutions: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if not i else 4, 4, 3, padding=1) for i in range(convolutions))
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return (
            tuple((found * self.outputs)[-self.outputs :])
            if self.outputs > len(found)
            else tuple(found[-self.outputs :])
        )


def large_ones() -> str:
    """A thousand convolutions in a row, and two thousand outputs."""
    x, rows = torch.randn(1, 3, 32, 32), [("a module", "adapt like itself")]
    for name, module in (
        ("1,000 convolutions, 4 outputs", Many(1000, 4)),
        ("500 convolutions, 2,000 outputs", Many(500, 2000)),
    ):
        took = seconds(lambda module=module: aa.adapt(module, like=module, inputs=x))
        rows.append((name, f"{took:.1f} s"))
    return "\n".join(columns(rows, align="lr"))


PARTS = {"adapt": against_the_extractor, "swap": swap_of_a_detector, "verify": passes_of_verify, "large": large_ones}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, part in PARTS.items():
        if given.only in (None, name):
            print(part(), flush=True)


if __name__ == "__main__":
    main()
