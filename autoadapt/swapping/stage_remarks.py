"""Stage remarks: where a whole network was put in the place of one stage, and what a model keeps of the old one."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from torch import nn

from autoadapt.adapting.operations import FEATURE_CHANNELS, Channels
from autoadapt.contracts.plain_modules import kept_parts
from autoadapt.swapping.region_candidates import chain_of, span_to
from autoadapt.swapping.successors import Successor
from autoadapt.swapping.watching import Example


def with_stage_remarks(model: nn.Module, example: Example, one: Successor) -> Successor:
    """The same successor, with remarks where its first layer was rewritten to read a stage's features, and where the
    model keeps parts of the old module.

    Args:
        model: The whole.
        example: How to run it; a copy runs once more where there is something to say.
        one: What takes a place.
    """
    given = () if one.part.plan is None else one.part.plan.inputs
    stems = [step for each in given for step in each.steps if isinstance(step, Channels)]
    stem = next((s for s in stems if s.target < FEATURE_CHANNELS <= s.source), None)
    remarks = [] if stem is None else [_network_remark(model, example, one, stem)]
    return one.with_remarks(*remarks, *kept_remarks(model, [one.place.module]))


def with_chain_remark(model: nn.Module, example: Example, planned: Sequence[Successor]) -> list[Successor]:
    """The same successors, with a remark and a warning where the matches of a pattern run one after the other."""
    paths = [one.place.path for one in planned]
    span = chain_of(model, example, paths) if len(planned) > 1 else ""
    if not span:
        return list(planned)
    remark = (
        f"{', '.join(paths)} run one after the other, and each is replaced alone; to put one module in the place of "
        f'all of them: swap(model, "{span}", ...)'
    )
    warnings.warn(remark, UserWarning, stacklevel=4)
    return [planned[0].with_remarks(remark), *planned[1:]]


def kept_remarks(model: nn.Module, members: Iterable[nn.Module]) -> list[str]:
    """What is said where a model keeps parts of the old members in plain lists."""
    return [
        f"`{name}` of the model goes on holding parts of the old modules; what runs them does not run the new one"
        for name in kept_parts(model, members)
    ]


def _network_remark(model: nn.Module, example: Example, one: Successor, stem: Channels) -> str:
    span = span_to(model, example, one.place.path)
    remark = (
        f"a whole network stands in the place of a stage: `{one.place.path}` is given {stem.source} channels, and "
        f"{one.part.new} is made for {stem.target}"
    )
    if span:
        remark += f'; perhaps the region is meant: swap(model, "{span}", ...)'
    return remark
