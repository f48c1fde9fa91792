"""Masking: means over tokens that leave out what a mask hides, and masks in the meaning that a module gives them."""

from __future__ import annotations

from collections.abc import Sequence

from autoadapt.adapting.effects import after
from autoadapt.adapting.operations import Cast, Invert, Mean, Operation
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Signature, TensorSpec

__all__ = ["as_mask", "with_masks"]


def with_masks(steps: Sequence[Operation], spec: TensorSpec, target: Signature) -> tuple[Operation, ...]:
    """The steps of a chain, whose means over an axis that a mask of the old module lies along leave out what it hides.

    Args:
        steps: Of the chain.
        spec: What they begin with.
        target: Signature of the old module.
    """
    masks, made = {mask.axis: mask for mask in target.masks}, list[Operation]()
    for step in steps:
        if isinstance(step, Mean) and len(step.axes) == 1 and str(spec.dims[0]) == "B":
            averaged = spec.dims[step.axes[0]]
            mask = masks.get(next(iter(averaged.axes))) if len(averaged.axes) == 1 else None
            if mask is not None:
                thinned = averaged != Dim.axis(mask.axis)
                update = {"mask": mask.argument, "counts": mask.counts, "thinned": thinned}
                step = step.model_copy(update=update)
        made.append(step)
        spec = after(step, spec)
    return tuple(made)


def as_mask(path: str, given: str, source: Signature, target: Signature) -> tuple[Operation, ...]:
    """The steps that make a mask of the old module one of the new one's, which may hide where it is one.

    Args:
        path: Among the inputs of the new module.
        given: Among those of the old one.
        source: Signature of the new module.
        target: Signature of the old one.
    """
    known = {mask.argument: mask.counts for mask in source.masks}
    wanted = {mask.argument: mask.counts for mask in target.masks}
    if path not in known or given not in wanted:
        return ()
    dtype = source.inputs[path].dtype
    turned = known[path] != wanted[given]
    steps: tuple[Operation, ...] = (Invert(),) if turned else ()
    have = "bool" if turned else target.inputs[given].dtype
    return (*steps, Cast(dtype=dtype)) if have != dtype else steps
