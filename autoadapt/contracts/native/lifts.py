"""Lifts: what is changed on a view of a module so that it takes images of other sizes.

A reader is a function that knows one family of one library. It looks at attributes alone, so that no library is
imported here, and changes nothing: what it returns is applied to views, never to a module of the user.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from autoadapt.contracts.views import uncompiled

__all__ = ["Change", "Lift", "Reader", "lift_of", "lift_reader", "setting"]

Change: TypeAlias = Callable[[nn.Module], None]
"""Changes a part of a view in place; its parameters and their names stay as they are."""


@dataclass(frozen=True)
class Lift:
    """What frees one module of its image size."""

    size: tuple[int, int]
    """Height and width that it was built for."""
    what: str
    """What then follows the size of the image, in words."""
    changes: tuple[tuple[str, Change], ...]
    """What is done to the parts of a view, by their paths."""
    steps: tuple[int, int] = (1, 1)
    """Multiples of which height and width are read whole, where a freed view leaves out what is over without a word."""
    untraced: str = ""
    """Why the freed view can be neither compiled nor exported at sizes that vary; empty where it can."""

    @property
    def settings(self) -> tuple[tuple[str, str, bool | str], ...]:
        """All changes as paths, attributes and values; empty where some are more than that."""
        found = [(path, change) for path, change in self.changes if isinstance(change, Setting)]
        if len(found) < len(self.changes):
            return ()
        return tuple((path, name, value) for path, change in found for name, value in change.values.items())

    def apply(self, view: nn.Module) -> None:
        """Free a view."""
        for path, change in self.changes:
            change(view.get_submodule(path))


Reader: TypeAlias = Callable[[nn.Module], Lift | None]
"""Says what frees a module; None where it is none of the family, or is free already."""

_READERS: list[Reader] = []


def lift_reader(reader: Reader) -> Reader:
    """Register what knows a family; the last one registered is asked first."""
    _READERS.insert(0, reader)
    return reader


def lift_of(module: nn.Module) -> Lift | None:
    """What frees a module and all parts of it that are tied to one size; None where no reader knows any.

    Parts of one module that were built for different sizes are left alone.
    """
    original = uncompiled(module)
    found = list(_lifts(original))
    if not found or len({one.size for _, one in found}) > 1:
        return None
    changes = tuple((_joined(path, inner), change) for path, one in found for inner, change in one.changes)
    lifts = [one for _, one in found]
    return Lift(
        lifts[0].size,
        ", ".join(dict.fromkeys(one.what for one in lifts)),
        changes,
        steps=(math.lcm(*(one.steps[0] for one in lifts)), math.lcm(*(one.steps[1] for one in lifts))),
        untraced=next((one.untraced for one in lifts if one.untraced), ""),
    )


def _lifts(module: nn.Module) -> Iterator[tuple[str, Lift]]:
    """The lifts of outermost parts that a reader knows; a part inside of one is that reader's matter."""
    known: list[str] = []
    for path, part in module.named_modules():
        if any(path.startswith(f"{one}.") or not one for one in known):
            continue
        lift = _read(part)
        if lift is not None:
            known.append(path)
            yield path, lift


def _read(part: nn.Module) -> Lift | None:
    for reader in _READERS:
        with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):  # another version of the library
            found = reader(part)
            if found is not None:
                return found
    return None


def _joined(path: str, inner: str) -> str:
    return ".".join(filter(None, [path, inner]))


class Setting:
    """A change that sets plain attributes, which files of plain PyTorch can say as well."""

    def __init__(self, values: Mapping[str, bool | str]) -> None:
        self.values = values

    def __call__(self, part: nn.Module) -> None:
        for name, value in self.values.items():
            setattr(part, name, value)


def setting(**values: bool | str) -> Setting:
    """A change that sets these attributes."""
    return Setting(values)


def grid_text(grid: Sequence[int]) -> str:
    """A grid as plans show it."""
    return "x".join(map(str, grid))
