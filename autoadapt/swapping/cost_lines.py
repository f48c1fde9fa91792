"""Cost lines: what adapters, their consumer and the whole model take, before a swap, after it, and without adapters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.costs import multiply_adds_by_part
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import aliased, copy_module, eval_copy
from autoadapt.errors import BuildError
from autoadapt.showing.tables import columns, human_count
from autoadapt.swapping.folding.narrowing import narrowing
from autoadapt.swapping.folding.other_runs import Run
from autoadapt.swapping.folding.settling import Settling, projected

FITTED = "calibrated, folded"
"""The state of a model whose adapters were fitted before they were merged."""


class CostLine(MadeByHand):
    """What one state of a model takes: parameters, and multiply-adds of one sample of the example."""

    state: str
    """`old`, `adapted`, `folded`, or what was rebuilt."""
    adapters: tuple[int, int]
    consumer: tuple[int, int]
    """All that was not swapped."""
    whole: tuple[int, int]


def cost_rows(lines: Sequence[CostLine]) -> list[tuple[str, ...]]:
    """A heading and a row for each state; parameters and multiply-adds of each part side by side."""
    head = ("cost of one sample", "adapters", "", "consumer", "", "whole", "")
    units = ("", *("params", "mult-adds") * 3)
    rows = [
        (line.state, *(human_count(one) for pair in (line.adapters, line.consumer, line.whole) for one in pair))
        for line in lines
    ]
    return [head, units, *rows]


def cost_text(lines: Sequence[CostLine]) -> list[str]:
    """The same as lines of text."""
    return columns(cost_rows(lines), align="lrrrrrr") if lines else []


@dataclass(frozen=True)
class Folded:
    """A state of the model without adapters, and what it is called."""

    state: str
    make: Callable[[], nn.Module]


def cost_lines(
    old: nn.Module, members: Collection[str], swapped: nn.Module, path: str, call: Arguments, others: Sequence[Folded]
) -> tuple[CostLine, ...]:
    """Count the old model, the adapted one, and others; a state that does not run has no line.

    Args:
        old: The model before the swap.
        members: Paths of the modules that are replaced.
        swapped: The model after it.
        path: Where the adapted module stands in it.
        call: An example call; counted for one sample, where its tensors agree on how many there are.
        others: Further states.
    """
    given = _one_sample(call)
    states = [Folded("old", lambda: old), Folded("adapted", lambda: swapped), *others]
    lines = [line for one in states for line in _lines(one, members if one.state == "old" else [path], given)]
    before = [None, *(line.whole for line in lines)]  # without ones a fitted model costs what any folded one does
    return tuple(one for one, last in zip(lines, before, strict=False) if (one.state, one.whole) != (FITTED, last))


def merged(model: nn.Module, path: str, call: Arguments, *, is_fitted: bool = False) -> nn.Module:
    """The model with all adapters merged that can be at the example; what other sizes ask for is not looked at.

    Args:
        model: With the adapted module in it; it is not changed.
        path: Where that stands.
        call: An example call.
        is_fitted: Whether its projections count as fitted: with offsets, which channels of ones carry to borders.

    Raises:
        BuildError: There is none.
    """
    model = copy_module(model, aliased)
    net = model.get_submodule(path)
    assert isinstance(net, AdaptedModule), "built as one"
    for offset in (one for one in net.adapters.parameters() if is_fitted and one.dim() == 1):
        offset.data = torch.ones_like(offset)
    work = Settling(model, path, net, call, [Run(call.call)])
    settled = work.settle(projected(net.plan))
    if not settled.levels:
        raise BuildError("nothing can be merged")
    return work.made(settled)


def narrowed(model: nn.Module, path: str, call: Arguments) -> nn.Module:
    """The model with its layers narrowed as one would by hand, as far as the example tells."""
    made = copy_module(model, aliased)
    narrowing(model, path, call, []).put_layers(made)
    return made


def _lines(state: Folded, members: Collection[str], call: Arguments) -> Iterator[CostLine]:
    with contextlib.suppress(Exception), quiet():  # whatever a model raises without values
        model = eval_copy(state.make(), aliased)
        parts = [model.get_submodule(path) for path in members]
        nets = [(path, one) for path, one in zip(members, parts, strict=True) if isinstance(one, AdaptedModule)]
        layers = [f"{path}.adapters.{name}" for path, net in nets for name, _ in net.adapters.named_children()]
        found = multiply_adds_by_part(model, call, [*members, *layers])
        whole, learned = _parameters([model]), _parameters([model.get_submodule(one) for one in layers])
        yield CostLine(
            state=state.state,
            adapters=(learned, sum(found[one] for one in layers)),
            consumer=(whole - _parameters(parts), found[""] - sum(found[one] for one in members)),
            whole=(whole, found[""]),
        )


def _parameters(modules: Sequence[nn.Module]) -> int:
    return sum(one.numel() for one in nn.ModuleList(modules).parameters())


def _one_sample(call: Arguments) -> Arguments:
    """The call with the first sample alone, where all tensors have as many; else as it is."""
    tree, tensors = flatten(call.values)
    batches = {tensor.shape[0] if tensor.dim() > 1 else 0 for tensor in tensors}
    if len(batches) > 1 or 0 in batches:
        return call
    return Arguments(rebuild(tree, [torch.narrow(tensor, 0, 0, 1) for tensor in tensors]), call.positional)
