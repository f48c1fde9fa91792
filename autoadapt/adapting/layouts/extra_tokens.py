"""Extra tokens: tokens of a token axis that are no cells of the image, such as class tokens and registers."""

from __future__ import annotations

from dataclasses import replace

from autoadapt.adapting.layouts.factors import Factored
from autoadapt.adapting.operations import DropPrefix, specs_along
from autoadapt.contracts.signature import TensorSpec, is_sequence


def class_token_axis(tensor: Factored) -> int | None:
    """The axis that lists a class token and cells of an image; None where none does."""
    found = (axis for axis, count in enumerate(tensor.prefixes) if count)
    axis = next(found, None) if tensor.spec.is_floating and tensor.strides else None
    return axis if axis is not None and any(len(atom.kind - {"B"}) for atom in tensor.atoms[axis]) else None


def token_axis(tensor: Factored) -> int | None:
    """The axis that lists the tokens of a sequence; None where none does, and for images."""
    along = [axis for axis, atoms in enumerate(tensor.atoms) if any(atom.kind - {"B"} for atom in atoms)]
    is_sequence = tensor.spec.is_floating and len(along) == 1 and not {"H", "W"} & tensor.strides.keys()
    return along[0] if is_sequence else None


def without_axis(tensor: Factored, axis: int) -> Factored:
    """A tensor without its token axis, as after selecting one token."""
    prefixes, suffixes, atoms, dims = (
        (*values[:axis], *values[axis + 1 :])
        for values in (tensor.prefixes, tensor.suffixes, tensor.atoms, tensor.spec.dims)
    )
    spec = tensor.spec.with_dims(dims).model_copy(update={"cells": "rows", "trailing": 0, "class_token": True})
    return Factored(spec, prefixes, suffixes, atoms)


def with_leading_told(have: Factored, target: TensorSpec) -> tuple[Factored, TensorSpec]:
    """A source and a target, of which leading tokens of a sequence are cells as all others unless they can be kept.

    They can where the source has as many or more, and where no more tokens of the target may be leading ones.
    """
    untold = [dim.added - target.leading for dim in target.dims if is_sequence(dim)]
    if not (have.spec.leading or target.leading) or (
        target.leading <= have.spec.leading and max(untold, default=0) <= 0
    ):
        return have, target
    unknown = {"leading": 0, "centres": ()}
    axes = [axis for axis, count in enumerate(have.prefixes) if have.spec.leading and count]
    made = {axis: replace(have.atoms[axis][0], dim=have.spec.dims[axis], centres=None) for axis in axes}
    left = replace(
        have,
        spec=have.spec.model_copy(update=unknown) if made else have.spec,
        prefixes=tuple(0 if axis in made else count for axis, count in enumerate(have.prefixes)),
        atoms=tuple((made[axis],) if axis in made else atoms for axis, atoms in enumerate(have.atoms)),
    )
    return left, target.model_copy(update=unknown) if target.leading else target


def registers(have: Factored, want: Factored) -> tuple[DropPrefix, ...]:
    """Operations that drop extra tokens of the source beyond those that the target has; none where it has fewer."""
    axis = class_token_axis(have)
    if axis is None or len(want.prefixes) <= axis or want.prefixes[axis] == 0:
        return ()
    before, behind = (have.prefixes[axis] - want.prefixes[axis], have.suffixes[axis] - want.suffixes[axis])
    if before < 0 or behind < 0 or (behind and want.suffixes[axis]):
        return ()
    drops = [DropPrefix(axis=axis, count=before, after=want.prefixes[axis])] if before else []
    return (*drops, *([DropPrefix(axis=axis, count=behind, at_end=True)] if behind else []))


def without_entries(tensor: Factored, drops: tuple[DropPrefix, ...]) -> Factored:
    """A tensor after dropping extra tokens."""
    prefixes, suffixes, spec = [*tensor.prefixes], [*tensor.suffixes], specs_along(tensor.spec, drops)[-1]
    for drop in drops:
        (suffixes if drop.at_end else prefixes)[drop.axis] -= drop.count
    return replace(tensor, spec=spec, prefixes=tuple(prefixes), suffixes=tuple(suffixes))


def in_words(before: int, behind: int) -> str:
    """Numbers of extra tokens as text."""
    counts = ((before, "leading"), (behind, "trailing"))
    return " and ".join(f"{count} {where} token{'s' * (count > 1)}" for count, where in counts if count)
