"""Lifts: the changes to a view of a module with which it takes images of other sizes than it was built for.

A reader is a function that returns the lift of modules of one family of one library. It reads attributes only, so that
no library is imported here. Lifts are applied to views, never to a module of the user.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from autoadapt.contracts.views import uncompiled

Change: TypeAlias = Callable[[nn.Module], None]
"""Changes a submodule of a view in place; its parameters and their names stay."""


@dataclass(frozen=True)
class Lift:
    """The changes that free one module of its image size."""

    size: tuple[int, int]
    """Height and width that the module was built for."""
    what: str
    """What is adjusted to the size of the image, as in `NativeSizes.what`."""
    changes: tuple[tuple[str, Change], ...]
    """Path of each submodule to change, and the change."""
    steps: tuple[int, int] = (1, 1)
    """Height and width have to be multiples of these, or the freed view silently leaves out the last pixels."""
    untraced: str = ""
    """Why the freed view can be neither compiled nor exported at sizes that vary; empty where it can."""

    @property
    def settings(self) -> tuple[tuple[str, str, bool | str], ...]:
        """All changes as (path, attribute, value); empty where setting attributes is not all."""
        found = [(path, change) for path, change in self.changes if isinstance(change, Setting)]
        if len(found) < len(self.changes):
            return ()
        return tuple((path, name, value) for path, change in found for name, value in change.values.items())

    def apply(self, view: nn.Module) -> None:
        """Free a view."""
        for path, change in self.changes:
            change(view.get_submodule(path))


Reader: TypeAlias = Callable[[nn.Module], Lift | None]
"""Returns the lift of a module; None where it is not of the family, or takes other sizes already."""

_READERS: list[Reader] = []


def lift_reader(reader: Reader) -> Reader:
    """Register the reader of a family, as a decorator; the last one registered is asked first."""
    _READERS.insert(0, reader)
    return reader


def lift_of(module: nn.Module) -> Lift | None:
    """The lift of a module, joined from those of all its submodules that readers know; None where they know none.

    None as well where submodules were built for different sizes.
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
    """Path and lift of the outermost submodules that a reader knows; their own submodules are not asked for."""
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
    """A change that sets attributes, which standalone source can repeat."""

    def __init__(self, values: Mapping[str, bool | str]) -> None:
        self.values = values

    def __call__(self, part: nn.Module) -> None:
        for name, value in self.values.items():
            setattr(part, name, value)


def setting(**values: bool | str) -> Setting:
    """A change that sets these attributes."""
    return Setting(values)


def grid_text(grid: Sequence[int]) -> str:
    """A grid as text: `14x14`."""
    return "x".join(map(str, grid))
