"""Class tokens: which vectors are computed only from a token that was concatenated in front of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from autoadapt.contracts.capturing.followers import Follower, Made

MOST = 16
"""The most tokens in front of the cells, registers included."""


@dataclass(frozen=True)
class Joined:
    """A token axis whose first tokens are no cells of the image."""

    size: int
    """All tokens."""
    front: int
    """Tokens in front of the cells."""
    learned: bool = False
    """Whether these are made without the input, as learned tokens are, and all that followed kept their places."""


ALONE = Joined(0, 0)
"""Marks a tensor that is computed from tokens in front alone."""


def class_tokens_followed() -> Follower[Joined]:
    """Follows class tokens from where they are concatenated to where one is selected; the result is then `ALONE`.

    So is what is computed from such results alone, as by a norm, a layer or a sum; but not where anything else takes
    part that depends on the input, as in attention or a mean.
    """
    cut = dict.fromkeys(("slice", "split_with_sizes"), _cut)
    moved = dict.fromkeys(_DISPLACING, _displaced)
    return Follower({"cat": _joined, "select": _picked, **cut, **moved}, lambda made: _together(made.told))


_DISPLACING = ("flip", "roll", "index", "index_select", "gather", "take_along_dim", "sort", "convolution")
"""Operations behind which tokens may stand elsewhere, or are mixed with their neighbours."""


def _displaced(made: Made[Joined]) -> Joined | None:
    found = _together(made.told)
    return found if found is None or found is ALONE else replace(found, learned=False)


def _joined(made: Made[Joined]) -> Joined | None:
    """Concatenation along a token axis: the parts before the largest one are tokens in front."""
    told, axis = made.told, made.named.get("dim") or 0
    if all(one is ALONE for one in told):
        return _together(told)
    parts: Sequence[torch.Tensor] = made.named["tensors"]
    if any(part.dim() != 3 for part in parts) or axis % 3 == 2:
        return None
    sizes = [part.shape[axis] for part in parts]
    largest = sizes.index(max(sizes))
    known = made.of(parts[largest])
    known = known if known is not None and known.size == sizes[largest] else Joined(sizes[largest], 0, True)
    front = sum(sizes[:largest]) + known.front
    given = [one for part in parts[:largest] for one in made.given if one is part]
    learned = all(made.of(one) is ALONE for one in given) and (known.learned or not known.front)
    return Joined(sum(sizes), front, learned) if 0 < front <= MOST and front < sum(sizes) else None


def _picked(made: Made[Joined]) -> Joined | None:
    known = _listed(made)
    if known is None:
        return _together(made.told)
    return ALONE if made.named["index"] % known.size < known.front else Joined(known.size, 0)


def _cut(made: Made[Joined]) -> Joined | None:
    """Slicing or splitting along a token axis."""
    known, named = _listed(made), made.named
    if known is None:
        return _together(made.told)
    first = sum(named["split_sizes"][: made.number]) if "split_sizes" in named else named["start"] or 0
    first = first + known.size if first < 0 else first
    count = made.tensor.shape[named["dim"]]
    if (named.get("step") or 1) == 1 and first + count <= known.front:
        return ALONE
    return Joined(count, max(known.front - first, 0), known.learned and (named.get("step") or 1) == 1)


def _listed(made: Made[Joined]) -> Joined | None:
    """The token axis along which an operation selects; None where it is another axis."""
    read: torch.Tensor = made.named["self"]
    known = made.of(read)
    return known if known is not None and known is not ALONE and read.shape[made.named["dim"]] == known.size else None


def _together(told: Sequence[Joined | None]) -> Joined | None:
    """Any other operation: the result is `ALONE` where all given tensors are, else has the first known token axis."""
    if told and all(one is ALONE for one in told):
        return ALONE
    return next((one for one in told if one is not None and one is not ALONE), None)
