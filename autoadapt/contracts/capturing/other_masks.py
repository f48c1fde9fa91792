"""Other masks: an old module's mask in the forms that a new one may take it: booleans, added to scores, lengths."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from autoadapt.contracts.signature import Form, Mask, Signature
from autoadapt.errors import AdaptError, InputError, Mismatch

# Dimension letters: B batch, N tokens or samples.

_Forms: TypeAlias = Sequence[tuple[Form, torch.dtype, int]]

_TABLES: _Forms = (
    ("truth", torch.bool, 2),
    ("added", torch.float32, 4),
    ("truth", torch.bool, 4),
    ("truth", torch.bool, 3),
    ("truth", torch.int64, 2),
    ("added", torch.float32, 2),
)
_LENGTHS: _Forms = (("lengths", torch.int64, 1), ("lengths", torch.float32, 1))
"""Form, dtype and number of axes of a mask: `[B]`, `[B, N]`, `[B, N, N]` or `[B, 1, 1, N]`."""


def hides_nothing(found: Signature, target: Signature, given: object) -> list[str]:
    """The new module's arguments that got a mask of the old one and hide nothing.

    Args:
        found: Signature of the new module.
        target: Signature of the old one.
        given: The inputs on which the new module was captured.
    """
    own, names = {mask.argument for mask in found.masks}, list(found.arguments)
    if found.unconfirmed or len(names) != len(_entries(given)):  # it did not run, or was not given all of it
        return []
    places = {place if isinstance(place, str) else names[place] for place in _places(target, given)}
    return sorted((places & set(found.inputs.paths)) - own)


def shows_more(
    again: Signature, found: Signature, idle: Sequence[str], given: object, captured: Callable[[object], Signature]
) -> bool:
    """Whether tokens see those behind them by a table of both, which replaces the mask that is the module's own.

    Args:
        again: Signature of the new module on a mask of another form.
        found: The one on the mask that hides nothing.
        idle: The arguments that got such masks.
        given: The inputs on which it was captured.
        captured: Captures it on others; it must run without masks for such a mask of its own to show.
    """
    if not again.looks_ahead or found.looks_ahead is not False:
        return False
    bare = {name: value for name, value in _by_name(given, found).items() if name not in idle}
    with contextlib.suppress(AdaptError):
        return captured(bare).looks_ahead is False
    return False


def masks_otherwise(target: Signature, given: object, *, counted: bool = False) -> Iterator[object]:
    """The inputs with the old module's masks in other forms; lengths only where all its masks are lengths.

    Args:
        target: Signature of the old module.
        given: Its inputs, as the new module is called with them.
        counted: Only as lengths, whatever its masks are.
    """
    places, entries = _places(target, given), _entries(given)
    forms = _LENGTHS if counted else _forms(list(places.values()))
    for others in zip(*(_other_forms(target, mask, forms) for mask in places.values()), strict=True):
        made = dict(entries)
        made |= {place: other.to(made[place].device) for place, other in zip(places, others, strict=True)}
        yield made if isinstance(given, Mapping) else tuple(made.values())


def _forms(masks: Sequence[Mask]) -> _Forms:
    """The forms that masks may be brought to."""
    return (*_TABLES, *_LENGTHS) if all(mask.form == "lengths" for mask in masks) else _TABLES


def _other_forms(target: Signature, mask: Mask, forms: _Forms) -> Iterator[torch.Tensor]:
    """An old module's mask in other forms, half of all samples hidden but of the first of several."""
    sizes = target.sizes()
    batch, size = sizes.get("B", 2), sizes[mask.axis]
    counting_BN = (torch.arange(size) < (size + 1) // 2).repeat(batch, 1)
    counting_BN[: batch - 1][:1] = True
    for form, dtype, rank in forms:
        shape = [(batch,), (batch, size), (batch, size, size), (batch, 1, 1, size)][rank - 1]
        other = mask.model_copy(update={"form": form, "counts": True})
        yield other.made(counting_BN, shape, dtype)


def under_other_names(
    found: Signature, target: Signature, inputs: object, given: object
) -> Iterator[tuple[str, object]]:
    """Calls of the new module that hand a mask, which it was not given, to an optional argument of another name.

    Args:
        found: Signature of the new module.
        target: Signature of the old one.
        inputs: The inputs of the old module.
        given: The inputs on which the new module was captured.

    Yields:
        The name of the argument, those that are called masks first, and the call by keyword.
    """
    old, own = _by_name(inputs, target), _by_name(given, found)
    lost = [mask for mask in target.masks if isinstance(old.get(mask.argument), torch.Tensor) and not mask.shared]
    if len(lost) != 1 or len(own) >= len(old) or any(mask.argument in own for mask in found.masks):
        return
    names = [one.name for one in found.parameters if one.takes_none and one.name not in own]
    for name in sorted(names, key=lambda name: not _MASK_LIKE.search(name))[:_MOST_NAMES]:
        for mask in (old[lost[0].argument], *_other_forms(target, lost[0], _forms(lost))):
            yield name, {**own, name: mask}


_MASK_LIKE = re.compile("mask|len|pad|valid")
_MOST_NAMES = 8


def counted_instead(found: Signature, target: Signature) -> InputError | None:
    """The refusal of a new module that takes lengths where the old one takes another mask; None where it does not.

    Args:
        found: Signature of the new module, on lengths.
        target: Signature of the old one.
    """
    mask = next((mask for mask in target.masks if mask.argument in target.inputs.paths), None)
    lengths = next((mask.argument for mask in found.masks if mask.form == "lengths"), None)
    if mask is None or lengths is None:
        return None
    counts = f"{mask.argument} > -100" if mask.form == "added" else f"{mask.argument} == {int(mask.counts)}"
    fault = Mismatch(
        f"inputs.{lengths}",
        f"{mask.argument} {target.inputs[mask.argument]}, which may hide any token",
        f"{lengths} {found.inputs[lengths]}, which hides those behind others alone",
        f"wrap the new module: {lengths} = ({counts}).sum(-1), if padding stands behind",
    )
    return InputError(f"{found.name} takes lengths where {target.name} takes a mask", [fault])


def _by_name(given: object, signature: Signature) -> dict[str, Any]:
    """The inputs by the names of a module's arguments."""
    if isinstance(given, Mapping):
        return {name: value for name, value in given.items() if name in signature.arguments}
    return dict(zip(signature.arguments, given if isinstance(given, tuple) else (given,), strict=False))


def _entries(given: object) -> Mapping[str | int, torch.Tensor]:
    """The inputs by name or by position."""
    if isinstance(given, Mapping):
        return given
    return dict(enumerate(given if isinstance(given, tuple) else (given,)))


def _places(target: Signature, given: object) -> dict[str | int, Mask]:
    """The old module's masks by their name or position among the inputs."""
    entries, names = _entries(given), list(target.arguments)
    found: dict[str | int, Mask] = {}
    for mask in target.masks:
        if mask.argument in names and not mask.shared:
            place = mask.argument if isinstance(given, Mapping) else names.index(mask.argument)
            found |= {place: mask} if isinstance(entries.get(place), torch.Tensor) else {}
    return found
