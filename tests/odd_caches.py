"""Modules that keep tables by size in odd places outside themselves."""

from __future__ import annotations

import argparse
import collections
import contextvars
from collections.abc import Generator
from typing import Any, cast

import torch
from stateful_modules import Positions
from torch import nn

UNSET: contextvars.ContextVar[Any] = contextvars.ContextVar("UNSET", default=None)
FILLED: contextvars.ContextVar[Any] = contextvars.ContextVar("FILLED")
FILLED.set({})


class InContextVariable(Positions):
    """In a dict that the first call puts into a context variable."""

    def table(self, size: int) -> torch.Tensor:
        if UNSET.get() is None:
            UNSET.set({})
        return UNSET.get().setdefault(size, torch.arange(size).float())


class InSetContextVariable(Positions):
    """In a dict that stands in a context variable."""

    def table(self, size: int) -> torch.Tensor:
        return FILLED.get().setdefault(size, torch.arange(size).float())


class Slotted:
    """The last table, and its size."""

    __slots__ = ("size", "table")

    def __init__(self) -> None:
        self.size = 0


class Below(Slotted):
    """Inherits slots."""

    __slots__ = ()


SLOTTED = Below()


class InSlots(Positions):
    """In an object with slots, one of which is empty at first."""

    def table(self, size: int) -> torch.Tensor:
        if SLOTTED.size != size:
            SLOTTED.size, SLOTTED.table = size, torch.arange(size).float()
        return SLOTTED.table


def tables() -> Generator[torch.Tensor | None, int, None]:
    made: dict[int, torch.Tensor] = {}
    size = yield None
    while True:
        size = yield made.setdefault(size, torch.arange(size).float())


GENERATOR = tables()
next(GENERATOR)


class InGenerator(Positions):
    """In a local variable of a generator that is running."""

    def table(self, size: int) -> torch.Tensor:
        return GENERATOR.send(size)


class OnTorchClass(Positions):
    """In a dict on torch's class of a layer."""

    def table(self, size: int) -> torch.Tensor:
        kind: Any = type(self.conv)
        if not hasattr(kind, "odd_tables"):
            kind.odd_tables = {}
        return kind.odd_tables.setdefault(size, torch.arange(size).float())


class OnTorch(Positions):
    """In a dict in the namespace of torch."""

    def table(self, size: int) -> torch.Tensor:
        home: Any = torch
        if not hasattr(home, "odd_tables"):
            torch.odd_tables = {}  # type: ignore[attr-defined]
        return home.odd_tables.setdefault(size, torch.arange(size).float())


class OnFunctional(Positions):
    """As an attribute of a module of torch, made anew for another size."""

    def table(self, size: int) -> torch.Tensor:
        home: Any = nn.functional
        if size not in getattr(nn.functional, "odd_table", {}):
            nn.functional.odd_table = {size: torch.arange(size).float()}  # type: ignore[attr-defined]
        return home.odd_table[size]


QUEUE: collections.deque[tuple[int, torch.Tensor]] = collections.deque(maxlen=9)


class InDeque(Positions):
    """In a deque, sizes beside tables."""

    def table(self, size: int) -> torch.Tensor:
        for known, table in QUEUE:
            if known == size:
                return table
        QUEUE.append((size, torch.arange(size).float()))
        return QUEUE[-1][1]


def last_table() -> Generator[torch.Tensor | None, int, None]:
    known, table = 0, None
    size = yield None
    while True:
        if size != known:
            known, table = size, torch.arange(size).float()
        size = yield table


LAST_TABLE = last_table()
next(LAST_TABLE)


class InLocalVariable(Positions):
    """In a local variable of a generator that is running, which nobody else can set."""

    def table(self, size: int) -> torch.Tensor:
        return cast("torch.Tensor", LAST_TABLE.send(size))


SETTINGS = argparse.Namespace(size=0)


class InForeignObject(Positions):
    """In an object of a class that is not the model's, filled by writing to what was made."""

    def table(self, size: int) -> torch.Tensor:
        if SETTINGS.size != size:
            SETTINGS.size, SETTINGS.table = size, torch.zeros(size)
            SETTINGS.table[1:] = torch.ones(size - 1)
            SETTINGS.table[2:].mul_(torch.arange(2, size))
        return cast("torch.Tensor", SETTINGS.table)


class AlikeInForeignObject(Positions):
    """Made alike to what comes in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        name = f"alike_{maps.shape[-1]}"
        if not hasattr(SETTINGS, name):
            positions = torch.arange(maps.shape[-1], device=x.device).to(maps)
            setattr(SETTINGS, name, maps.new_ones(1) * positions)
        return cast("torch.Tensor", maps + getattr(SETTINGS, name).to(getattr(SETTINGS, name).device))


class OnGlobals(Positions):
    """In names of the Python module that no code spells out."""

    def table(self, size: int) -> torch.Tensor:
        return cast("torch.Tensor", globals().setdefault(f"table_{size}", torch.arange(size).float()))


ODD = [InContextVariable, InSetContextVariable, InSlots, InGenerator, OnTorchClass, OnTorch, OnFunctional]
ODD += [InDeque, InLocalVariable, InForeignObject, AlikeInForeignObject, OnGlobals]
