"""Resolving: the config with everything said that was found, and the report of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from autoadapt.adapting.planning import Plan
from autoadapt.assembly.assembly_sessions import Argument, Session
from autoadapt.assembly.configs import Config, PartConfig
from autoadapt.assembly.references import Reference
from autoadapt.assembly.results import Assembly, Given, PartReport


def resolved_part(
    config: PartConfig,
    arguments: Mapping[str, Any],
    references: Sequence[Reference],
    given: Sequence[Argument],
    target: str,
) -> PartConfig:
    """A part with its arguments, what it takes, and as what.

    Args:
        config: What the config said.
        arguments: Of its constructor, with those that were found.
        references: What it takes as a whole.
        given: The tensors that it takes.
        target: What a loss compares with.
    """
    changes: dict[str, Any] = {"arguments": dict(arguments), "target": target}
    taken = [each for argument in given for each in argument.taken]
    if any(argument.whole for argument in given):
        changes["takes"] = tuple(map(str, references))
    else:
        changes["takes"] = tuple(each.source for each in taken)
        changes["expects"] = () if target else tuple(each.spec.in_full for each in taken)
    return config.model_copy(update=changes)


def resolved_config(session: Session, parts: Mapping[str, PartConfig]) -> Config:
    """The whole config, with paths that hold from anywhere."""
    config, folder = session.config, session.document.folder
    groups: dict[str, Any] = {"neck": {}, "head": {}, "loss": {}}
    for name, _ in config.parts():
        group, _, own = name.partition(".")
        groups[group][own] = parts[name]
    weights = tuple(entry.model_copy(update={"path": str(folder / entry.path)}) for entry in config.weights)
    adapt = config.adapt
    if isinstance(adapt.like, str):
        adapt = adapt.model_copy(update={"like": str(folder / adapt.like)})
    groups |= {single: parts[single] for single in ("preprocessor", "whole") if single in parts}
    changes = {"backbone": (parts["backbone"],), "weights": weights, "adapt": adapt, **groups}
    return config.model_copy(update=changes)


def report_of(
    session: Session,
    types: Mapping[str, str],
    parts: Mapping[str, nn.Module],
    given: Mapping[str, Sequence[Argument]],
    plans: Mapping[str, Plan],
) -> Assembly:
    """What a config became.

    Args:
        session: What was found on the way.
        types: Of the parts, with the scope that each was found in.
        parts: The parts, adapted.
        given: What each is given.
        plans: The adapters.
    """
    rows = []
    for name, module in parts.items():
        taken = [each for argument in given.get(name, ()) for each in argument.taken]
        tensors = tuple(each.given(each.spec, session.sizes) for each in taken)
        count = sum(parameter.numel() for parameter in module.parameters())
        rows.append(PartReport(name=name, type=types[name], given=tensors, parameters=count))
    single = [_single_cell(row.name, row.given[0], session.sizes) for row in rows if len(row.given) == 1]
    remarks = (*session.remarks, *filter(None, single))
    return Assembly(sizes=session.sizes, parts=tuple(rows), plans=dict(plans), remarks=remarks)


def _single_cell(name: str, given: Given, sizes: Mapping[str, int]) -> str:
    """That a map has no detail left, which average pooling hides."""
    if not given.cells or set(given.cells.split("x")) != {"1"}:
        return ""
    size = "x".join(str(size) for axis, size in sizes.items() if axis != "B")
    return f"`{name}` is given a single cell ({given.source}, stride {given.stride}, at {size}): no detail is left"
