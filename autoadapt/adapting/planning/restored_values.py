"""Restored values: restoring a property that the old values had at every input, where a chain does not keep it."""

from __future__ import annotations

from collections.abc import Iterable

from autoadapt.adapting.operations import (
    Cast,
    Copy,
    DropPrefix,
    Flip,
    Mean,
    Operation,
    Pool,
    Project,
    Rearrange,
    Resample,
    Resize,
    ResizeTokens,
    Restore,
    Take,
    axis_groups,
)
from autoadapt.adapting.planning.plans import Route
from autoadapt.contracts.signature import Held, Signature, TensorSpec


def with_held(steps: tuple[Operation, ...], source: TensorSpec, target: TensorSpec) -> tuple[Operation, ...]:
    """A chain, with `Restore` at its end where it does not keep the target's property.

    Means of probabilities are probabilities, and those of vectors of norm 1 are shorter.
    """
    held, kept = target.holds, source.holds
    if held is None or not target.is_restored or not target.is_floating or target.role != "feature":
        return steps
    return steps if _is_kept(held, kept, steps) else (*steps, Restore(what=held.what, axis=held.axis, on=held.on))


def _is_kept(held: Held, kept: Held | None, steps: Iterable[Operation]) -> bool:
    """Whether a property holds at the end of a chain, given the one at its beginning."""
    for step in steps:
        kept = _after(step, kept) if kept is not None else None
    return kept is not None and kept.implies(held)


def _after(step: Operation, held: Held) -> Held | None:
    """The property after an operation; None where it is lost."""
    if held.bounds is not None:
        return None if isinstance(step, Project) else held
    axis, is_mean = held.axis, held.what == "probabilities" and not held.on
    match step:
        case Cast() | Copy() | Flip():
            return held
        case Rearrange(pattern=pattern) if not held.on:
            left, right = axis_groups(pattern)
            return _at(held, right.index(left[axis])) if left[axis] in right else None
        case DropPrefix(axis=dropped) | Take(axis=dropped) if dropped != axis and not held.on:
            return _at(held, axis - (isinstance(step, Take) and dropped < axis))
        case Mean(axes=axes) if is_mean and axis not in axes:
            return _at(held, axis - sum(one < axis for one in axes))
        case Pool() | Resize() | Resample() if is_mean and axis == 1:
            return held
        case ResizeTokens() if is_mean and axis == 2:
            return held
        case _:
            return None


def _at(held: Held, axis: int) -> Held:
    return held.model_copy(update={"axis": axis})


def held_remarks(source: Signature, target: Signature, routes: Iterable[Route]) -> list[str]:
    """Remarks on properties that outputs gain, may have twice, or lose.

    Nothing is restored after a ReLU, which would come between a projection and its reader. For maps there is no remark
    on that, since most of them come after a ReLU and are read by convolutions.
    """
    own, said = dict(source.outputs.items()), []
    routes = [*routes]
    beyond: dict[str, list[str]] = {}
    for route in routes:
        if told := _no_longer(route, target):
            beyond.setdefault(told, []).append(route.target)
    for route in routes:
        held = own[route.source].holds if route.source in own else None
        is_seen = route.source in own and not source.unconfirmed
        softmax = any(isinstance(step, Restore) and "probabilities" in step.what for step in route.steps)
        if any(isinstance(step, Project) for step in route.steps):
            continue
        if softmax and (not is_seen or (held is not None and held.what == "probabilities")):
            known = (
                "holds probabilities already" if is_seen else "no real run told whether it holds probabilities already"
            )
            said.append(f"{route.source} of {source.name} gets a softmax, and {known}, which a second one flattens")
        elif held is not None and target.outputs[route.target].holds is None and held.what != "never negative":
            said.append(f"{route.source} of {source.name} holds {held}, and {route.target} of {target.name} did not")
    return said + [
        f"{', '.join(paths)} of {target.name} {'are' if len(paths) > 1 else 'is'} {told}, and what serves"
        f" {'them' if len(paths) > 1 else 'it'} need not be"
        for told, paths in beyond.items()
    ]


def _no_longer(route: Route, target: Signature) -> str:
    """The bounds of an old output that the new values may leave, as text; empty where there are none."""
    spec = target.outputs[route.target]
    is_map = {"H", "W"} <= {axis for dim in spec.dims for axis in dim.axes}
    held = None if spec.is_restored or route.same_as else spec.holds
    if held is None or (is_map and held.what == "never negative") or _is_kept(held, route.specs[0].holds, route.steps):
        return ""
    return held.what
