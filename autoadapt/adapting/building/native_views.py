"""Native views: a view is changed to take images of any size, where its plan says so."""

from __future__ import annotations

from torch import nn

from autoadapt.adapting.operations import Native
from autoadapt.adapting.planning import Plan
from autoadapt.contracts.native import lift_of, tables_of
from autoadapt.contracts.signature import image_of
from autoadapt.errors import BuildError, Mismatch


def read_natively(view: nn.Module, plan: Plan) -> None:
    """Let a view take images of other sizes than it was built for, if the plan has a `Native` step.

    Parameters and their names stay as they are.

    Args:
        view: It is changed.
        plan: What is built.

    Raises:
        BuildError: The module is not the one that the plan was made for, or it is not known how to do so here.
    """
    steps = [step for route in plan.inputs for step in route.steps if isinstance(step, Native)]
    if not steps:
        return
    wanted, image = steps[0].sizes, image_of(plan.source.inputs)
    lift = lift_of(view) or (tables_of(view, wanted.size, image[1]) if image is not None else None)
    if lift is None or (lift.what, tuple(lift.size)) != (wanted.what, wanted.size):
        found = f"{lift.what}, built for {lift.size[0]}x{lift.size[1]}" if lift is not None else "nothing that does"
        expected = f"{wanted.what}, built for {wanted.size[0]}x{wanted.size[1]}"
        fault = Mismatch(type(view).__name__, expected, found, 'aa.adapt(new, like=old, resolution="fixed")')
        raise BuildError(f"{type(view).__name__} cannot be made to read images at their own size", [fault])
    lift.apply(view)
