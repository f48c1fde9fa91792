"""Layer sizes: the number of weights in the generated layers of a plan, counted before any of them is made."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from autoadapt.adapting.operations import Channels, Project
from autoadapt.adapting.planning import Plan
from autoadapt.contracts.allocations import MOST_LEARNED
from autoadapt.errors import BuildError, Mismatch


def refuse_large_layers(new: nn.Module, plan: Plan) -> None:
    """Refuse a plan whose generated layers and rewritten stems take too much memory.

    Raises:
        BuildError: They have more than `MOST_LEARNED` weights together; the largest layer is named.
    """
    counts = [*_counts(new, plan)]
    count = sum(values for values, _ in counts)
    if count > MOST_LEARNED:
        expected = f"generated layers of at most {MOST_LEARNED:,} values together"
        raise BuildError(
            "the adapters are too large", [Mismatch(max(counts)[1], expected, f"{count:,}", "fewer channels")]
        )


def _counts(new: nn.Module, plan: Plan) -> Iterator[tuple[int, str]]:
    """The number of weights of each layer, and the output or input that it belongs to."""
    named = dict(new.named_modules())
    for route in plan.routes:
        yield from (
            (step.groups * step.source * step.target, route.target) for step in route.steps if isinstance(step, Project)
        )
    for given in plan.inputs:
        for step in given.steps:
            if not isinstance(step, Channels) or not step.stem:
                continue
            weight = getattr(named.get(step.stem), "weight", None)
            if isinstance(weight, torch.Tensor):
                yield weight.numel() // max(step.target, 1) * step.source, f"inputs.{given.target}"
