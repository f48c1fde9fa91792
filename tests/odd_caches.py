"""Modules that keep tables by size in odd places outside themselves."""

from __future__ import annotations

import contextvars
from collections.abc import Generator
from typing import Any

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


ODD = [InContextVariable, InSetContextVariable, InSlots, InGenerator, OnTorchClass, OnTorch, OnFunctional]
