"""Free outputs: those that nothing in the model reads, and that cost too little to be left out."""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Sequence

from autoadapt.adapting.operations import Cast, DropPrefix, Flip, Operation, Rearrange, Take, Thin
from autoadapt.adapting.planning import Plan, Route
from autoadapt.contracts.signature import Signature, TensorSpec


def free_outputs(
    most: Plan, source: Signature, target: Signature, wanted: Sequence[str], escaped: Collection[str]
) -> list[str]:
    """The leaves beside the wanted ones that cost little.

    Those that escape are part of the whole model's answer: they have to cost no parameters. Others have to cost no
    layer and no deeper part.
    """
    routes = {route.target: route for route in most.routes}
    behind = _behind(source, [routes[path].source for path in wanted])
    return [
        path
        for path, route in routes.items()
        if path not in wanted
        and _has_the_meaning(route, target, wanted)
        and (
            not any(step.parameters for step in route.steps)
            if path in escaped
            else all(map(_is_free, route.steps)) and not _behind(source, [route.source]) & ~behind
        )
    ]


def _behind(source: Signature, read: Sequence[str]) -> int:
    """The parameters of the new module that outputs or taps depend on, one bit each."""
    outputs = zip(source.outputs.paths, source.output_weights, strict=False)
    known = {inner.name: inner.weights for inner in source.inner} | dict(outputs)
    return functools.reduce(operator.or_, (int(known.get(path) or "0", 16) for path in read), 0)


def _is_free(step: Operation) -> bool:
    """Whether a step only hands on what is there."""
    return isinstance(step, (Cast, DropPrefix, Flip, Rearrange, Take, Thin))


def _has_the_meaning(route: Route, target: Signature, wanted: Sequence[str]) -> bool:
    """Whether a leaf that nobody reads is no other set of points, or index into one, that happens to fit.

    An index into a leaf that is the old module's own means nothing elsewhere. Points are those of the old leaf only
    where they are as many as in a leaf that is read, which the same choice serves.
    """
    into = [gathering.values for gathering in target.invariants if gathering.index == route.target]
    if route.specs[-1].role == "index" and not all(values.startswith("inputs.") for values in into):
        return False
    read = {_points(target.outputs[path]) for path in wanted}
    return _points(target.outputs[route.target]) in (read | {None})


def _points(spec: TensorSpec) -> int | None:
    """How many points a leaf lists, where it lists any."""
    return None if spec.points is None else spec.dims[spec.points].constant
