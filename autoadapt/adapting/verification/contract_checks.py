"""The checks `signature`, `plan` and `centres`: the signature captured again, the plan's steps, and cell positions."""

from __future__ import annotations

from autoadapt.adapting.verification.centre_checks import known_axes, misplaced_cells, telling_sizes
from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.more_sizes import smallest_counterexample
from autoadapt.adapting.verification.route_steps import broken_chain, misread_rows
from autoadapt.adapting.verification.sessions import NotApplicableError, Session
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.dims import Dim
from autoadapt.errors import CaptureError


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
