"""Inputs: what the old module is given, made legal for the new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoadapt.dims import Dim
from autoadapt.errors import MatchError, Mismatch
from autoadapt.operations import (
    Channels,
    Operation,
    Resize,
    after,
)
from autoadapt.planning.plans import InputRoute
from autoadapt.signature import AxisSizes, InnerOutput, Signature, TensorSpec

__all__ = ["route_inputs"]


def route_inputs(source: Signature, target: Signature) -> tuple[InputRoute, ...]:
    """Pair inputs by name, then by spec, and bring them to legal sizes."""
    routes, faults = list[InputRoute](), list[Mismatch]()
    wanted = dict(target.inputs.items())
    for path, spec in source.inputs.items():
        taken = [route.target for route in routes]
        chosen = _paired_input(path, spec, {p: s for p, s in wanted.items() if p not in taken})
        if isinstance(chosen, Mismatch):
            faults.append(chosen)
            continue
        given = wanted[chosen]
        channels = _matched_channels(spec, given, source.inner)
        steps = _fitted_input(path, spec, after(channels[0], given) if channels else given, source.axes, target.axes)
        if isinstance(steps, Mismatch):
            faults.append(steps)
        else:
            routes.append(InputRoute(source=path, target=chosen, steps=(*channels, *steps)))
    if faults:
        raise MatchError(f"{source.name} cannot be called with the old module's inputs", faults)
    return tuple(routes)


def _matched_channels(spec: TensorSpec, given: TensorSpec, inner: Sequence[InnerOutput]) -> tuple[Channels, ...]:
    """Where an image has other channels than the new module was made for: its first layer reads them."""
    if len(spec.dims) not in (4, 5) or spec.dims[1] == given.dims[1]:
        return ()
    have, want = given.dims[1].constant, spec.dims[1].constant
    stem = min((o for o in inner if o.layers == 1 and not o.parent), key=lambda o: o.started, default=None)
    if have is None or want is None or stem is None:
        return ()
    return (Channels(source=have, target=want, stem=stem.module),)


def _paired_input(path: str, spec: TensorSpec, options: Mapping[str, TensorSpec]) -> str | Mismatch:
    alike = [other for other, found in options.items() if _same_kind(found, spec)]
    named = [other for other in alike if other == path]
    if named or len(alike) == 1:
        return (named or alike)[0]
    exact = [other for other in alike if _constants(options[other]) == _constants(spec)]
    if len(exact) == 1:
        return exact[0]
    offered = "; ".join(f"{other} {found}" for other, found in options.items()) or "no input left"
    found = f"equally good: {', '.join(alike)}" if alike else offered
    return Mismatch(f"inputs.{path}", str(spec), found, "wrap the new module so that it takes the old one's arguments")


def _same_kind(left: TensorSpec, right: TensorSpec) -> bool:
    return left.is_floating == right.is_floating and len(left.dims) == len(right.dims)


def _constants(spec: TensorSpec) -> tuple[int | None, ...]:
    return tuple(dim.constant for dim in spec.dims)


def _fitted_input(
    path: str,
    spec: TensorSpec,
    given: TensorSpec,
    legal: Mapping[str, AxisSizes],
    wanted: Mapping[str, AxisSizes],
) -> tuple[Operation, ...] | Mismatch:
    """The operations that make a given input legal for the new module."""
    reached = [_legal(dim, have, legal, wanted) for dim, have in zip(spec.dims, given.dims, strict=True)]
    changed = [i for i, (made, have) in enumerate(zip(reached, given.dims, strict=True)) if made != have]
    spatial = given.is_floating and len(given.dims) in (3, 4, 5) and all(axis >= 2 for axis in changed)
    if changed and not spatial:
        return Mismatch(
            f"inputs.{path}, axis {changed[0]}",
            str(given.dims[changed[0]]),
            f"{spec.dims[changed[0]]} only",
            "build the new module for these inputs, such as in_chans=" + str(given.dims[changed[0]]),
        )
    return (Resize(dims=tuple(reached[2:])),) if changed else ()


def _legal(dim: Dim, given: Dim, legal: Mapping[str, AxisSizes], wanted: Mapping[str, AxisSizes]) -> Dim:
    """The size to bring a given axis to, so that the new module takes it."""
    if dim.constant is not None:
        return dim
    sizes = legal.get(str(dim))
    if sizes is None or sizes.step == 1:
        return given
    if given.constant is not None:
        return given if given.constant in sizes else Dim(sizes.near(given.constant))
    allowed = wanted.get(str(given))
    if allowed is not None and sizes.covers(allowed):
        return given
    if sizes.step == 0:
        return Dim(sizes.example)
    return (given - sizes.offset).ceildiv(sizes.step) * sizes.step + sizes.offset
