"""Results of every kind, of real models, to be shown: each is made once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import timm
import torch
from calibration_models import Model, Pyramid, model_with, pictures
from plan_kinds import example
from planted_faults import FAULTS
from small_models import Mixed, Plain, image
from torch import nn

import autoadapt as aa
from autoadapt.assembly import Registry, compare
from autoadapt.calibration import Calibration

CONFIG = "input: f32[B, 3, 32, 32]\nbackbone: {BACKBONE}\nneck: {type: FPN, in_channels: [8, 8, 8, 8]}\n"
BACKBONE = "timm:mobilenetv3_small_050"


class Dense24(nn.Module):
    """A DenseNet that returns a list of 24 maps: the stem, after every other layer of its blocks, and the last."""

    def __init__(self) -> None:
        super().__init__()
        self.features = timm.create_model("densenet121").features

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.features.norm0(self.features.conv0(x))
        maps = [x]
        x = self.features.pool0(x)
        for i in range(1, 5):
            grown = [x]
            for j, layer in enumerate(self.features.get_submodule(f"denseblock{i}").children()):
                grown.append(layer(grown))
                maps += [torch.cat(grown, 1)] if j % 2 and len(maps) < 23 else []
            x = torch.cat(grown, 1)
            x = self.features.get_submodule(f"transition{i}")(x) if i < 4 else x
        return [*maps, x]


class Blocks12(nn.Module):
    """A vision transformer that returns a tuple of what its twelve blocks make."""

    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("vit_tiny_patch16_224")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.net.forward_intermediates(x, intermediates_only=True))


def plan_of(new: nn.Module, old: nn.Module, size: int) -> aa.Plan:
    """How one becomes the other, on images."""
    return aa.adapt(new.eval(), like=old.eval(), inputs=torch.zeros(1, 3, size, size), resolution="fixed").plan


def one_output() -> aa.Plan:
    return example("tokens to a vector")[1].plan


def five_levels() -> aa.Plan:
    old = timm.create_model("resnet50", features_only=True)
    return plan_of(timm.create_model("vit_small_patch16_224"), old, 224)


def twelve_taps() -> aa.Plan:
    return plan_of(timm.create_model("vit_small_patch16_224"), Blocks12(), 224)


def twenty_four_outputs() -> aa.Plan:
    return plan_of(timm.create_model("resnet50"), Dense24(), 64)


def many_kinds() -> aa.Plan:
    return example("levels in other containers")[1].plan


def points() -> aa.Plan:
    return example("points without indices")[1].plan


class Channels(nn.Module):
    """One convolution."""

    def __init__(self, in_channels: int, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def signature() -> aa.Signature:
    return many_kinds_net().signature


def many_kinds_net() -> aa.AdaptedModule:
    return aa.adapt(Plain(), like=Mixed(), inputs=image())


def passing() -> aa.Verification:
    return many_kinds_net().verify(image())


def failing() -> aa.Verification:
    net = many_kinds_net()
    return aa.verify(FAULTS["reordered dict"].breaks(net), net.signature, inputs=image())


def calibration() -> Calibration:
    old = Model((8, 6)).eval()
    net = model_with(old, Pyramid((6, 5), seed=1))
    return aa.calibrate(net, at="backbone", like=old, data=pictures(8).split(4), images=8, solver="ridge")


def distillation() -> aa.Distillation:
    old = Model((8, 6)).eval()
    net = model_with(old, Pyramid((6, 5), seed=1))
    return aa.distil(net, at="backbone", like=old, data=pictures(16).split(4), steps=8, lr=1e-3)


def transfer() -> aa.Transfer:
    old, new = timm.create_model("resnet18", num_classes=10), timm.create_model("resnet18", num_classes=7, in_chans=1)
    state = {f"module.{name}": tensor for name, tensor in old.state_dict().items()}
    state |= {"module.<b>auxiliary</b>.weight": torch.ones(3)}
    return aa.transfer(state, new, shapes={"fc.*": "slice"})


class Detector(nn.Module):
    """A backbone at `body`, and a head that reads its second level."""

    def __init__(self) -> None:
        super().__init__()
        self.body = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3))
        self.head = nn.Conv2d(128, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)[1])


def swap() -> aa.Swap:
    new = timm.create_model("mobilenetv3_small_050", features_only=True)
    return aa.swap(Detector().eval(), "body", new.eval(), inputs=torch.zeros(1, 3, 64, 64), dry_run=True)


def refused_swap() -> aa.Swap:
    return aa.swap(Detector().eval(), "body", nn.Flatten(), inputs=torch.zeros(1, 3, 64, 64), dry_run=True)


def assembly() -> Any:
    return aa.assemble(CONFIG.replace("{BACKBONE}", BACKBONE)).report


def config() -> Any:
    return aa.assemble(CONFIG.replace("{BACKBONE}", BACKBONE)).config


def comparison() -> Any:
    registry = Registry()
    registry.register("backbone")(Channels)
    return compare(
        "input: f32[B, 3, 8, 8]\nbackbone: [Channels, {type: Channels, width: 7}, {type: Channels, widht: 7}]\n",
        registry=registry,
    )


def ranking() -> aa.Ranking:
    candidates = {"narrow": Pyramid((2, 4)), "timm:nothing": "timm:nothing", "wide": Pyramid((8, 16), seed=1)}
    return aa.rank(candidates, Pyramid((4, 8)).eval(), data=[pictures(12)], head=lambda maps: maps[-1].mean((2, 3)))


PLANS: dict[str, Callable[[], aa.Plan]] = {
    "one output": one_output,
    "five levels": five_levels,
    "twelve taps": twelve_taps,
    "twenty-four outputs": twenty_four_outputs,
    "many kinds": many_kinds,
    "points": points,
}

RESULTS: dict[str, Callable[[], Any]] = {
    **PLANS,
    "signature": signature,
    "passing": passing,
    "failing": failing,
    "calibration": calibration,
    "distillation": distillation,
    "transfer": transfer,
    "swap": swap,
    "refused swap": refused_swap,
    "assembly": assembly,
    "config": config,
    "comparison": comparison,
    "ranking": ranking,
}


@functools.cache
def result(name: str) -> Any:
    """A result by its name; made at the first call."""
    torch.manual_seed(0)
    return RESULTS[name]()


HOSTILE = (
    "<script>document.title = 'owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</style></svg><iframe src='https://example.org/'></iframe>",
    "]]> &lt;b&gt; <!-- [red]no markup[/red] {x} %s",
    "\x1b[31mred\x1b[0m\x00\x07",
    "\u202egnp.exe",
    "行列" * 30,
    "a" * 200,
    "decoder.block.attention." * 12,
    "two\nlines\tand a tab",
    "\ud800 unpaired",
)
"""What outputs may be called; nothing of it may run, move or hide anything."""


def hostile() -> aa.Plan:
    """A plan whose modules, inputs and outputs have such names."""
    old = {name: f"f32[B, {8 + i}, ceil(H/4), ceil(W/4)]" for i, name in enumerate(HOSTILE)}
    new = {f"{name}'": f"f32[B, {32 + i}, ceil(H/4), ceil(W/4)]" for i, name in enumerate(HOSTILE)}
    inputs = {"x": "f32[B, 3, H, W]"}  # arguments have names that Python allows
    source = aa.Signature.parse(new, inputs=inputs, name=HOSTILE[1])
    target = aa.Signature.parse(old, inputs=inputs, name=HOSTILE[2])
    pairs = {name: f"{name}'" for name in HOSTILE}
    return aa.plan(source, target, pairs=pairs)
