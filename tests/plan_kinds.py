"""Plans of different kinds, and every way to spoil one operation of a plan."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from point_clouds import READ, PointNet, PointTransformer, cloud
from small_models import Mixed, Plain, Pyramid, Tokens, image
from torch import nn

import autoadapt as aa
from autoadapt.adapting.operations import (
    Cast,
    DropPrefix,
    Mean,
    Operation,
    Pool,
    Project,
    Rearrange,
    Recover,
    Resize,
    ResizeTokens,
    Take,
)

IMAGE = "f32[B, 3, H, W]"


@dataclass(frozen=True)
class Kind:
    """A new module, a contract, an example call and further arguments of `adapt`."""

    new: nn.Module
    like: Any
    inputs: Any
    options: dict[str, Any] = field(default_factory=dict)


def texts(outputs: object) -> aa.Signature:
    """A contract on images."""
    return aa.Signature.parse(outputs, inputs=IMAGE)


KINDS = {
    "levels in other containers": lambda: Kind(Plain(), Mixed(), image()),
    "tokens to a map": lambda: Kind(Tokens(), texts({"map": "f32[B, 7, ceil(H/8), ceil(W/8)]"}), image()),
    "tokens to a coarser map": lambda: Kind(Tokens(4), texts(["f32[B, 7, ceil(H/16), ceil(W/16)]"]), image()),
    "tokens to a vector": lambda: Kind(Tokens(), texts("f32[B, 5]"), image()),
    "class token to a vector": lambda: Kind(Tokens(), texts("f32[B, 5] class token"), image()),
    "registers left out": lambda: Kind(Tokens(front=3), texts("f32[B, floor(H/10)*floor(W/10) + 1, 5]"), image()),
    "map to tokens": lambda: Kind(Pyramid(4, 8), texts("f32[B, ceil(H/4)*ceil(W/4), 5]"), image()),
    "tokens to tokens on another grid": lambda: Kind(
        Tokens(4), texts("f32[B, floor(H/10)*floor(W/10) + 1, 5]"), image()
    ),
    "map to a vector": lambda: Kind(Pyramid(4, 8), texts("f32[B, 5]"), image()),
    "map to channels last, in float64": lambda: Kind(Pyramid(4, 8), texts("f64[B, ceil(H/4), ceil(W/4), 8]"), image()),
    "rounded down to rounded up": lambda: Kind(
        nn.Conv2d(3, 6, 4, 4), texts("f32[B, 6, ceil(H/4), ceil(W/4)]"), image()
    ),
    "multiples of 8 only": lambda: Kind(MultiplesOf8(), texts("f32[B, 6, ceil(H/4), ceil(W/4)]"), image()),
    "projections everywhere": lambda: Kind(Pyramid(4, 8), Pyramid(4, 8), image(), {"project": "always"}),
    "points": lambda: Kind(PointTransformer(), PointNet(), (cloud(), {}), {"outputs": READ}),
    "points without indices": lambda: Kind(
        PointTransformer(indices=False), PointNet(), (cloud(), {}), {"outputs": READ, "indices": "recover"}
    ),
}


class MultiplesOf8(nn.Module):
    """Refuses images whose sides are no multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 9, 8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % 8 or x.shape[3] % 8:
            raise ValueError("the sides of the image must be multiples of 8")
        return self.embed(x)


def adapted(kind: Kind) -> aa.AdaptedModule:
    """The new module of a kind with the voice of the old one."""
    return aa.adapt(kind.new, like=kind.like, inputs=kind.inputs, **kind.options)


@functools.cache
def example(kind: str) -> tuple[Kind, aa.AdaptedModule]:
    """A kind and what `adapt` makes of it, once for all tests that leave both as they are."""
    made = KINDS[kind]()
    return made, adapted(made).eval()


def spoiled_plans(plan: aa.Plan) -> Iterator[tuple[str, aa.Plan]]:
    """Every plan that differs in one operation, left out or altered, with what was done."""
    for name in ("routes", "inputs"):
        routes = getattr(plan, name)
        for i, route in enumerate(routes):
            for done, steps in _spoiled_steps(route.steps):
                changed = route.model_copy(update={"steps": steps})
                spoiled = plan.model_copy(update={name: (*routes[:i], changed, *routes[i + 1 :])})
                yield f"{name} {route.target}: {done}", spoiled


def _spoiled_steps(steps: tuple[Operation, ...]) -> Iterator[tuple[str, tuple[Operation, ...]]]:
    for i, step in enumerate(steps):
        yield f"without {step}", (*steps[:i], *steps[i + 1 :])
        for altered in _altered(step):
            yield f"{step} as {altered}", (*steps[:i], altered, *steps[i + 1 :])


def _altered(step: Operation) -> Iterator[Operation]:
    match step:
        case DropPrefix():
            yield step.model_copy(update={"count": step.count + 1})
        case Rearrange():
            yield step.model_copy(update={"pattern": _other_order(step.pattern)})
        case Take():
            yield step.model_copy(update={"axis": step.axis + 1})
        case Mean():
            yield step.model_copy(update={"axes": tuple(axis - 1 for axis in step.axes)})
        case Pool():
            yield step.model_copy(update={"kernel": tuple(size + 1 for size in step.kernel)})
        case Resize():
            yield step.model_copy(update={"dims": tuple(dim + 1 for dim in step.dims)})
            yield step.model_copy(update={"dims": tuple(reversed(step.dims))})
        case ResizeTokens():
            yield step.model_copy(update={"dims": tuple(dim + 1 for dim in step.dims)})
            yield step.model_copy(update={"dims": tuple(reversed(step.dims))})
            yield step.model_copy(update={"prefix": step.prefix + 1})
            yield step.model_copy(update={"suffix": step.suffix + 1})
        case Project():
            yield step.model_copy(update={"target": step.target + 1})
            yield step.model_copy(update={"source": step.source + 1})
            yield step.model_copy(update={"bias": not step.bias})
        case Cast():
            yield step.model_copy(update={"dtype": "f16" if step.dtype.startswith("f") else "i16"})
        case Recover():
            yield step.model_copy(update={"dtype": "i64"})


def _other_order(pattern: str) -> str:
    """Columns read for rows where a pattern has merged axes, else two axes exchanged."""
    swapped = re.sub(r"\((\w+) (\w+)\)", r"(\2 \1)", pattern)
    if swapped != pattern:
        return swapped
    left, right = pattern.split(" -> ")
    *first, last_but_one, last = right.split()
    return f"{left} -> {' '.join([*first, last, last_but_one])}"
