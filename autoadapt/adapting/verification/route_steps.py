"""Chains: whether the steps of a route follow from one another and read rows as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from autoadapt.adapting.operations import Operation, Rearrange, ResizeTokens, after, axis_groups, parameters, text
from autoadapt.adapting.planning import Route
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Signature, TensorSpec
from autoadapt.errors import Mismatch

__all__ = ["axis_order", "broken_chain", "misread_rows"]


def broken_chain(route: Route, contract: TensorSpec) -> list[Mismatch]:
    """Steps that do not lead to what the plan says stands after them, or not to the contract."""
    if len(route.specs) != len(route.steps) + 1:
        return [Mismatch(route.target, f"{len(route.specs) - 1} steps", f"{len(route.steps)} steps")]
    faults, spec = [], route.specs[0]
    for step, noted in zip(route.steps, route.specs[1:], strict=True):
        spec = after(step, spec)
        if spec != noted:
            faults.append(Mismatch(route.target, str(noted), f"{spec} after {step.op}"))
    if (spec.dtype, spec.dims) != (contract.dtype, contract.dims):
        faults.append(Mismatch(route.target, str(contract), str(spec)))
    counted = sum(map(parameters, route.steps))
    if counted != route.parameters:
        faults.append(Mismatch(route.target, f"{route.parameters} parameters", f"{counted} parameters"))
    return faults


def axis_order(signature: Signature) -> dict[str, int]:
    """The input axes in the order in which they stand."""
    names = [axis for spec in signature.inputs.leaves for dim in spec.dims for axis in sorted(dim.axes)]
    return {name: position for position, name in enumerate(dict.fromkeys(names))}


def misread_rows(route: Route, order: Mapping[str, int]) -> list[Mismatch]:
    """Merged axes that are not in the order of the input's: columns read for rows have the right size and are wrong."""
    faults = []
    for step, spec in zip(route.steps, route.specs, strict=False):
        for shown, dims in _merged(step, spec):
            rank = [min(map(order.__getitem__, dim.axes)) for dim in dims if dim.axes]
            if rank != sorted(rank):
                faults.append(Mismatch(route.target, "cells row by row", shown))
    return faults


def _merged(step: Operation, spec: TensorSpec) -> Iterator[tuple[str, list[Dim]]]:
    """The dims that a step merges into one axis or takes apart, and how it says that."""
    match step:
        case Rearrange(pattern=pattern, sizes=sizes):
            left, right = axis_groups(pattern)
            dims = sizes | {names[0]: dim for names, dim in zip(left, spec.dims, strict=False) if len(names) == 1}
            for names in (*left, *right):
                yield f"({' '.join(names)}) in {pattern}", [dims[name] for name in names]
        case ResizeTokens(source=have, dims=want):
            for sides in (have, want):
                yield f"{' x '.join(map(str, sides))} in {text(step)}", list(sides)
        case _:
            return
