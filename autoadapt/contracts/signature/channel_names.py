"""Channel names: what the channels of an image hold, as the caller names them: colours, infrared, depth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle
from typing import NoReturn

from autoadapt.errors import Mismatch, SignatureError, nearest
from autoadapt.errors.printable import visible

_SAME = {"red": "r", "green": "g", "blue": "b", "gray": "grey", "a": "alpha", "d": "depth", "pan": "panchromatic"}

_KNOWN = (
    *("r", "g", "b", "grey", "panchromatic", "alpha", "depth", "ultraviolet", "coastal", "aerosol", "yellow"),
    *("rededge", "nir", "swir", "mir", "mwir", "lwir", "tir", "thermal", "cirrus", "watervapour"),
    *("vv", "vh", "hv", "hh", "elevation", "slope", "height", "disparity", "intensity", "mask", "other"),
    *("flow", "u", "v"),
)


def channel_names(told: object, where: str = "channels") -> tuple[str, ...]:
    """The names of channels in their standard spelling: `r`, `g` and `b` for colours, with or without a number.

    Args:
        told: A sequence of names.
        where: The argument's name, for errors.

    Raises:
        SignatureError: A name is none of those that are known; `other` stands for anything that is no colour.

    Example:
        >>> channel_names(["Blue", "g", "red", "NIR", "swir_2"])
        ('b', 'g', 'r', 'nir', 'swir2')
    """
    if isinstance(told, str) or not isinstance(told, Sequence) or not told:
        _refuse([Mismatch(where, "a sequence of names", visible(repr(told))[:60], 'channels=("r", "g", "b", "nir")')])
    names = [_spelt(name) for name in told]
    unknown = [name for name, known in zip(told, names, strict=True) if known is None]
    faults = [
        Mismatch(f"{where}, {visible(repr(name))[:40]}", "the name of a channel", "no known one", _remedy(name))
        for name in dict.fromkeys(map(str, unknown))
    ]
    if faults:
        _refuse(faults)
    return tuple(name for name in names if name is not None)


def met_by_name(given: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """For each given name its index among the wanted ones, repeated names in turn; -1 for none.

    Example:
        >>> met_by_name(["b", "g", "r", "nir"], ["r", "g", "b"])
        [2, 1, 0, -1]
    """
    places = {name: [i for i, one in enumerate(wanted) if one == name] for name in given}
    seen = {name: cycle(found or [-1]) for name, found in places.items()}
    return [next(seen[name]) for name in given]


def _spelt(name: object) -> str | None:
    """The standard spelling of a name; None where it is unknown."""
    found = (
        re.fullmatch(r"([a-z]+?)([0-9]{0,3})", re.sub(r"[ _-]", "", name.lower())) if isinstance(name, str) else None
    )
    if found is None:
        return None
    word = _SAME.get(found[1], found[1])
    is_colour = word in ("r", "g", "b")  # of which there are no numbered ones
    return word + found[2] if word in _KNOWN and not (is_colour and found[2]) else None


def _remedy(name: str) -> str:
    near = nearest(name.lower(), [*_KNOWN, *_SAME])
    return f"{', '.join(map(repr, near))}{', or ' if near else ''}'other' for what is no colour"


def _refuse(faults: Sequence[Mismatch]) -> NoReturn:
    raise SignatureError("these are no names of channels", list(faults))
