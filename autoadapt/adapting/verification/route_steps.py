"""Route steps: whether each step of a route fits the one before, and keeps the order of cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from autoadapt.adapting.operations import Operation, Rearrange, ResizeTokens, axis_groups
from autoadapt.adapting.planning import Route
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import AxisSizes, TensorSpec, equal_where_legal, in_order
from autoadapt.errors import Mismatch


def broken_chain(route: Route, contract: TensorSpec, axes: Mapping[str, AxisSizes]) -> list[Mismatch]:
    """Steps whose result is not the spec that the plan notes after them, or not the contract's after the last one.

    Args:
        route: From a source to an output.
        contract: The output as the contract has it.
        axes: Legal sizes of the input axes; the last spec must equal the contract's at all of them.
    """
    if len(route.specs) != len(route.steps) + 1:
        return [Mismatch(route.target, f"{len(route.specs) - 1} steps", f"{len(route.steps)} steps")]
    faults, spec = [], route.specs[0]
    for step, noted in zip(route.steps, route.specs[1:], strict=True):
        spec = step.gives(spec)
        if spec != noted:
            faults.append(Mismatch(route.target, str(noted), f"{spec} after {step.op}"))
    alike = len(spec.dims) == len(contract.dims) and all(
        equal_where_legal(found, wanted, axes) for found, wanted in zip(spec.dims, contract.dims, strict=True)
    )
    if not alike or (spec.dtype, spec.order) != (contract.dtype, contract.order):
        faults.append(Mismatch(route.target, str(contract), str(spec)))
    counted = sum(step.parameters for step in route.steps)
    if counted != route.parameters:
        faults.append(Mismatch(route.target, f"{route.parameters} parameters", f"{counted} parameters"))
    return faults


def misread_rows(route: Route, contract: TensorSpec) -> list[Mismatch]:
    """Axes that a step merges into one, or splits, in another order than that of their cells.

    For example a map whose columns are read as rows: its sizes are right, and its values misplaced.
    """
    faults, told = [], [one.parts for one in (route.specs[0].merged, contract.merged) if one is not None]
    known = [[part.dim for part in parts] for parts in told]
    for step, before, made in zip(route.steps, route.specs, route.specs[1:], strict=False):
        for shown, cells, dims in _merged(step, before, made):
            axes = [min(dim.axes - {"B"}) for dim in dims if dim.axes - {"B"}]
            if axes != in_order(axes, cells) and dims not in known:
                faults.append(Mismatch(route.target, _BY.get(cells, f"cells in {cells} order"), shown))
    return faults


_BY = {"rows": "cells row by row", "columns": "cells column by column"}


def _merged(step: Operation, spec: TensorSpec, made: TensorSpec) -> Iterator[tuple[str, str, list[Dim]]]:
    """The groups of dims that a step merges into one axis or splits.

    Yields:
        The group as the step writes it, the order of its cells, and its dims.
    """
    match step:
        case Rearrange(pattern=pattern, sizes=sizes):
            left, right = axis_groups(pattern)
            dims = sizes | {names[0]: dim for names, dim in zip(left, spec.dims, strict=False) if len(names) == 1}
            for cells, side in ((spec.cells, left), (made.cells, right)):
                for names in side:
                    yield f"({' '.join(names)}) in {pattern}", cells, [dims[name] for name in names]
        case ResizeTokens(source=have, dims=want):
            for sides in (have, want):
                yield f"{' x '.join(map(str, sides))} in {step}", spec.cells, list(sides)
        case _:
            return
