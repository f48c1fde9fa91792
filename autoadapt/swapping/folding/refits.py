"""Refits: layers of a model rebuilt for the channels of a new module, without adapters between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.planning import Plan
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.randomness import quiet
from autoadapt.errors import SwapError
from autoadapt.swapping.folding.foldings import Folding, start_anew
from autoadapt.swapping.folding.folds import folded_as_far
from autoadapt.swapping.folding.narrowing import Narrowing, narrowing
from autoadapt.swapping.folding.other_runs import runs_of, uncompiled_parts
from autoadapt.swapping.folding.settling import Settled, Settling, projected, without_projections

Refit: TypeAlias = bool | Literal["readers", "shrink"]
"""Whether readers are rebuilt for the new channels: `readers`, or True. `shrink` narrows what lies behind them too."""


@dataclass(frozen=True)
class Refitting:
    """What is rebuilt, found on a copy of the model and ready to be done."""

    folding: Folding
    work: Settling
    settled: Settled

    def plan(self, net: AdaptedModule) -> Plan:
        """How the new module is adapted then."""
        return without_projections(net, self.folding).plan

    def put_in(self, model: nn.Module) -> None:
        """Rebuild the layers of the model itself, in place."""
        start_anew(model, self.work.put(model, self.settled))
        vars(model.get_submodule(self.work.path))["folded"] = self.folding


def refitting(
    model: nn.Module, path: str, call: Arguments, *, how: Refit, is_untrained: bool
) -> Refitting | Narrowing | None:
    """Find the layers that read an adapted module and can read the new channels; every output that has such readers.

    Args:
        model: A copy of it with the adapted module in it, which is run.
        path: Where that stands.
        call: An example call of the model.
        how: `shrink` also narrows what lies behind them.
        is_untrained: Whether the layers start from new weights; else adapters are merged into theirs.

    Returns:
        None where there is nothing to rebuild, since all channels agree.

    Raises:
        SwapError: No reader can be rebuilt.
    """
    net = model.get_submodule(path)
    assert isinstance(net, AdaptedModule), "built as one"
    wanted = projected(net.plan)
    if not wanted:
        return None
    with quiet(), uncompiled_parts():
        runs = runs_of(model, call)
        if how == "shrink":
            return narrowing(model, path, call, runs)
        work = Settling(model, path, net, call, runs, is_untrained=is_untrained)
        settled, made = folded_as_far(work, wanted, may_be_heavier=True)
    if made is None:
        remedy = "swap(...)  # without refit, with adapters"
        faults = [stay.mismatch(remedy) for stay in settled.stays.values()]
        raise SwapError("no layer that reads the module can be rebuilt for other channels", faults)
    found: Any = made.get_submodule(path)
    return Refitting(found.folded, work, settled)
