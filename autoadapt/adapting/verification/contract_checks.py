"""The checks `signature`, `plan` and `centres`: the signature captured again, the plan's steps, and cell positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from autoadapt.adapting.operations import Operation, Rearrange, ResizeTokens, axis_groups
from autoadapt.adapting.planning import Route
from autoadapt.adapting.verification.centre_checks import known_axes, misplaced_cells, telling_sizes
from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.more_sizes import smallest_counterexample
from autoadapt.adapting.verification.sessions import NotApplicableError, Session
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import AxisSizes, TensorSpec, equal_where_legal, in_order
from autoadapt.errors import CaptureError, Mismatch


def signature_again(session: Session) -> Findings:
    """Capture the module and compare its signature with the contract."""
    arguments = session.arguments(session.at())
    values = arguments.values
    inputs: object = values if arguments.positional < len(values) else tuple(values.values())
    tokens_first = any(Dim.axis("B") in spec.dims[1:2] for spec in session.signature.inputs.leaves)
    try:
        again = capture(session.net, inputs, confirm=tokens_first)  # only real runs show which axis is the batch
    except CaptureError:  # its shapes follow no formula; the smallest size that breaks this one says more
        if faults := smallest_counterexample(session):
            return Findings(faults)
        raise
    return Findings(session.signature.diff(again), "captured again and compared")


def plan_follows(session: Session) -> Findings:
    """Check that each step of the plan fits the one before, and that the last one gives the contract."""
    plan = session.plan
    if plan is None:
        raise NotApplicableError("the module was not built from a plan")
    contract = dict(plan.target.outputs.items())
    faults = [
        fault
        for route in plan.routes
        for fault in (
            *broken_chain(route, contract[route.target], plan.target.axes),
            *misread_rows(route, contract[route.target]),
        )
    ]
    count = sum(len(route.steps) for route in plan.routes)
    return Findings(faults, "1 step" if count == 1 else f"{count} steps, each fits the one before")


def cells_in_place(session: Session) -> Findings:
    """Check that cells lie where those of the contract lie, also at sizes where both modules' cell numbers differ."""
    plan, sizes = session.plan, session.at()
    if plan is None or not known_axes(plan, session.signature, sizes):
        raise NotApplicableError("where cells lie is not known of both modules")
    net, furthest = session.copy(), 0.0
    for other in telling_sizes(plan, session.signature, sizes):
        full = session.at(**{**other, "B": 1})
        faults, away = misplaced_cells(net, plan, session.signature, session.shown(full), full)
        furthest = max(furthest, away)
        if faults:
            break
    return Findings(faults, f"at most {round(furthest, 2):.3g} pixels from the old ones")


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
