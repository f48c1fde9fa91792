"""Other masks: an old module's mask in the forms that a new one may take it: booleans, added to scores, lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from autoadapt.contracts.signature import Mask, Signature

# Dimension letters: B batch, N tokens or samples.

_TABLES = (
    ("truth", torch.bool, 2),
    ("added", torch.float32, 4),
    ("truth", torch.bool, 4),
    ("truth", torch.bool, 3),
    ("truth", torch.int64, 2),
)
_LENGTHS = (("lengths", torch.int64, 1), ("lengths", torch.float32, 1))
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


def masks_otherwise(target: Signature, given: object) -> Iterator[object]:
    """The inputs with the old module's masks in other forms; lengths only where all its masks are lengths.

    Args:
        target: Signature of the old module.
        given: Its inputs, as the new module is called with them.
    """
    places, sizes = _places(target, given), target.sizes()
    forms = (*_TABLES, *_LENGTHS) if all(mask.form == "lengths" for mask in places.values()) else _TABLES
    for form, dtype, rank in forms if places else ():
        made = dict(_entries(given))
        for place, mask in places.items():
            batch, size = sizes.get("B", 2), sizes[mask.axis]
            shape = [(batch,), (batch, size), (batch, size, size), (batch, 1, 1, size)][rank - 1]
            other = mask.model_copy(update={"form": form, "counts": True})
            made[place] = other.example(shape, size, dtype, torch.Generator().manual_seed(0)).to(made[place].device)
        yield made if isinstance(given, Mapping) else tuple(made.values())


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
