"""Native views: the view of a module is freed of the image size that it was built for, as its plan says."""

from __future__ import annotations

from torch import nn

from autoadapt.adapting.operations import Native
from autoadapt.adapting.planning import Plan
from autoadapt.contracts.native import lift_of, tables_of
from autoadapt.contracts.signature import image_of
from autoadapt.errors import BuildError, Mismatch

__all__ = ["read_natively"]


def read_natively(view: nn.Module, plan: Plan) -> None:
    """Free a view where the plan says so; parameters and their names stay as they are.

    Raises:
        BuildError: The module is another one than the plan was made for, or nothing is known that frees it here.
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
