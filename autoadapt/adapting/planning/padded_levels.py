"""Padded levels: outputs that would include the padding of an image, since the places of their cells are not known."""

from __future__ import annotations

from autoadapt.adapting.operations import Pad, Resize, ResizeTokens
from autoadapt.adapting.planning.plans import Plan, Route
from autoadapt.errors import Mismatch


def stretched_over_padding(plan: Plan) -> list[Mismatch]:
    """A mismatch for each output whose cells would be stretched over the padding too.

    Cells of a padded image are resampled at the old module's centres. Where either module has no centres, they can only
    be resized, which includes the padding and so depends on the size of each image.
    """
    pads = [step for route in plan.inputs for step in route.steps if isinstance(step, Pad)]
    padded = {axis for step in pads for dim in step.dims for axis in dim.axes}
    return [_fault(route, plan) for route in plan.routes if padded & _spread(route, plan)]


def _spread(route: Route, plan: Plan) -> set[str]:
    """The axes of the image along which a route resizes cells, and one of the modules has no centres."""
    stretched = {
        axis
        for step, spec in zip(route.steps, route.specs[1:], strict=False)
        if isinstance(step, Resize | ResizeTokens)
        for dim in spec.dims
        for axis in dim.axes
    }
    old = {one.axis for one in plan.target.outputs[route.target].centres}
    new = {one.axis for one in route.specs[0].centres}
    return stretched - (old & new)


def _fault(route: Route, plan: Plan) -> Mismatch:
    is_old = not plan.target.outputs[route.target].centres
    untold = "the contract" if is_old else route.source
    return Mismatch(
        f"{route.target}, fit",
        "cells whose places are known, so that those of the zeros are left out",
        f"{plan.target.outputs[route.target]}, stretched over the zeros too: {untold} does not tell where cells lie",
        'fit="resize"' + ("  # or like=old, the module itself: texts do not tell where cells lie" if is_old else ""),
    )
