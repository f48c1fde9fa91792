"""Hidden tokens: chains that leave out hidden tokens, and masks in the form that the new module takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from autoadapt.adapting.operations import Averaging, Cast, Counted, Hide, Mean, Operation, Remask, Take
from autoadapt.adapting.planning.plans import Route
from autoadapt.contracts.capturing import counts_by_name
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Mask, Returned, Signature, TensorSpec, frames_of, is_sequence
from autoadapt.errors import Mismatch


def with_masks(steps: Sequence[Operation], spec: TensorSpec, target: Signature, path: str) -> tuple[Operation, ...]:
    """The steps of a chain, changed for the masks of the old module.

    Averages along a masked axis leave hidden tokens out, and the last token is the last that counts. Where the old
    output was zero at hidden tokens, so is the result; where it was the mask itself, for its own frames, the result is
    computed from the mask.
    """
    for mask, told in _returned(target):
        if told.path == path:
            want, form = target.outputs[path], Mask(argument=path, axis=mask.axis, form=told.form, counts=told.counts)
            return (Remask(given=mask, wanted=form, dtype=want.dtype, dims=want.dims, returned=told),)
    made = list[Operation]()
    for step in steps:
        if isinstance(step, Averaging | Take):
            axes = _axes_of(step, spec)
            where = next(counted_along(spec, axes, target.masks), None) if len(axes) == 1 else None
            step = step.model_copy(update={"where": where}) if where is not None else step
        made.append(step)
        spec = step.gives(spec)
    zeroed = [mask for mask in target.masks if path in mask.zeroed]
    return (*made, *(Hide(where=where) for where in counted_along(spec, range(len(spec.dims)), zeroed)))


def returned_masks(target: Signature) -> dict[str, str]:
    """The outputs of the old module that are masks for their own frames, with the path of the input mask."""
    return {told.path: f"inputs.{mask.argument}" for mask, told in _returned(target)}


def _returned(target: Signature) -> list[tuple[Mask, Returned]]:
    given = [mask for mask in target.masks if mask.argument in target.inputs.paths]
    return [(mask, told) for mask in given for told in mask.returned if told.path in target.outputs.paths]


def _axes_of(step: Averaging | Take, spec: TensorSpec) -> Sequence[int]:
    """The axes over which a step averages, or from which it takes the last entry."""
    if isinstance(step, Take):
        return (step.axis,) if step.last else ()
    return step.axes if isinstance(step, Mean) else range(2, len(spec.dims))


def counted_along(spec: TensorSpec, axes: Iterable[int], masks: Sequence[Mask]) -> Iterator[Counted]:
    """For each of some axes of a tensor, and each mask for its tokens, which of these count.

    Additional tokens are taken to be in front. Samples are on the first axis, or on the second behind tokens.
    """
    for axis in axes:
        dim, samples = spec.dims[axis], spec.dims[int(axis == 0) : int(axis == 0) + 1]
        leading = spec.leading if is_sequence(dim) else 0
        for mask in masks:
            if dim.axes == {mask.axis} and samples == (Dim.axis("B"),):
                more, frames = (dim - Dim.axis(mask.axis)).constant, frames_of(dim - leading, mask.axis)
                is_fitted = frames is None and (more is None or more < 0)
                front = max(more or 0, leading)
                yield Counted(mask=mask, axis=axis, front=front, frames=frames, fitted=is_fitted)


def with_tokens_behind(route: Route) -> Route:
    """The route from an output in which additional tokens are behind those of the mask."""
    steps = [
        step.model_copy(update={"where": step.where.model_copy(update={"front": 0, "behind": step.where.front})})
        if isinstance(step, Averaging | Hide | Take) and step.where is not None
        else step
        for step in route.steps
    ]
    return route.model_copy(update={"steps": tuple(steps)})


def masks_read(routes: Iterable[Route]) -> set[str]:
    """The arguments of all masks that operations read."""
    steps = [step for route in routes for step in route.steps]
    read = {step.where.mask.argument for step in steps if isinstance(step, Averaging | Hide | Take) and step.where}
    return read | {step.given.argument for step in steps if isinstance(step, Remask)}


def as_mask(path: str, given: str, source: Signature, target: Signature) -> tuple[Operation, ...] | Mismatch:
    """The steps from a mask of the old module to one of the new one's, which may have another form or meaning.

    A mask for each item cannot become one for all items.

    Args:
        path: The input of the new module.
        given: The input of the old module.
        source: Signature of the new module.
        target: Signature of the old module.
    """
    known = {mask.argument: mask for mask in source.masks}
    wanted = {mask.argument: mask for mask in target.masks}
    if path not in known or given not in wanted:
        return ()
    have, want = target.inputs[given], source.inputs[path]
    mine, theirs = wanted[given], known[path]
    if theirs.shared and not mine.shared:
        remedy = "wrap the new module so that it takes a mask for each item, such as src_key_padding_mask"
        return Mismatch(f"inputs.{path}", f"{have}, a mask for each item", f"{want}, one for all items", remedy)
    forms = [(mask.form, mask.counts, mask.shared, len(spec.dims)) for mask, spec in ((mine, have), (theirs, want))]
    alike = forms[0] == forms[1]
    if mine.form == "lengths":  # integers, or fractions
        alike = alike and have.is_floating == want.is_floating
    if alike and (have.dtype == want.dtype or not _is_optional(given, target)):
        return (Cast(dtype=want.dtype),) if have.dtype != want.dtype else ()
    named = {theirs.axis: Dim.axis(mine.axis), str(want.dims[0]): have.dims[0]}
    dims = tuple(dim.substitute({name: new for name, new in named.items() if name in dim.axes}) for dim in want.dims)
    return (Remask(given=mine, wanted=theirs, dtype=want.dtype, dims=dims),)


def _is_optional(name: str, signature: Signature) -> bool:
    return any(one.name == name and one.default is not None for one in signature.parameters)


def with_masks_told(target: Signature, source: Signature) -> Signature:
    """A contract with masks that are known by their names alone, as in one that was written by hand.

    Those are inputs with the name of a mask of the new module, and `[B, N]` with a usual name for masks.
    """
    own, theirs = {mask.argument for mask in target.masks}, {mask.argument: mask for mask in source.masks}
    told = [theirs.get(path) or _told(path, spec) for path, spec in target.inputs.items() if path not in own]
    more = [
        mask.model_copy(update={"zeroed": (), "behind": (), "returned": ()})
        for mask in told
        if mask is not None and mask.axis in target.axes
    ]
    return target.model_copy(update={"masks": (*target.masks, *more)}) if more else target


def _told(path: str, spec: TensorSpec) -> Mask | None:
    """The mask that an input is by its name and shape; else None."""
    counts = counts_by_name(path)
    is_table = len(spec.dims) == 2 and counts is not None
    return Mask(argument=path, axis=str(spec.dims[1]), counts=bool(counts)) if is_table else None
