"""Containers that nobody would write for a test."""

from __future__ import annotations

import enum
from collections import defaultdict, namedtuple
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch


class Attributes(dict[str, Any]):
    """A dict whose keys are attributes, as EasyDict writes it: a missing one raises KeyError."""

    __getattr__ = dict.__getitem__


class Levels(list[torch.Tensor]):
    """A list that is made from strides and maps."""

    def __init__(self, strides: list[int], maps: list[torch.Tensor]) -> None:
        super().__init__(maps)
        self.strides = strides


class Labelled(list[torch.Tensor]):
    """A list with an attribute that its constructor does not take."""

    label = ""


class Pair(tuple[torch.Tensor, ...]):
    """A tuple that is made from two values."""

    def __new__(cls, one: torch.Tensor, two: torch.Tensor) -> Pair:
        return super().__new__(cls, (one, two))


class Told(NamedTuple):
    one: torch.Tensor
    two: torch.Tensor


class Checked(namedtuple("Checked", ["one", "two"])):
    """A named tuple that takes its items in another order."""

    __slots__ = ()

    def __new__(cls, two: torch.Tensor, one: torch.Tensor) -> Checked:
        return super().__new__(cls, one, two)


@dataclass
class Plainly:
    one: torch.Tensor
    two: torch.Tensor


@dataclass
class Swapped:
    """Its fields change places when it is made."""

    one: torch.Tensor
    two: torch.Tensor

    def __post_init__(self) -> None:
        self.one, self.two = self.two, self.one


@dataclass
class Stacked:
    """Takes a list and keeps it as a dict."""

    maps: Any

    def __post_init__(self) -> None:
        if isinstance(self.maps, (list, tuple)):
            self.maps = {f"p{i}": one for i, one in enumerate(self.maps)}


@dataclass
class Derived:
    """A field that is no argument, and is made from the others."""

    one: torch.Tensor
    two: torch.Tensor
    mean: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.mean = self.two.mean((2, 3))


@dataclass(frozen=True)
class Frozen:
    one: torch.Tensor
    two: torch.Tensor


@dataclass
class Slotted:
    __slots__ = ("one", "two")
    one: torch.Tensor
    two: torch.Tensor


class Side(enum.Enum):
    LEFT = 1


def in_itself(one: torch.Tensor, two: torch.Tensor) -> list[Any]:
    found: list[Any] = [one, two]
    found.append(found)
    return found


def in_its_parent(one: torch.Tensor, two: torch.Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {"one": one, "inner": {"two": two}}
    found["inner"]["parent"] = found
    return found


def by_default(one: torch.Tensor, two: torch.Tensor) -> Any:
    found: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
    found["maps"] += [one, two]
    return found


def labelled(one: torch.Tensor, two: torch.Tensor) -> Labelled:
    found = Labelled([one, two])
    found.label = "maps"
    return found
