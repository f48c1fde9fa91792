"""Modules that break a habit: a train() that returns nothing, caches that outlive the call, outputs of many minds."""

from __future__ import annotations

import functools
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar

import torch
from small_models import stage
from torch import nn


class Frozen(nn.Module):
    """Two levels; keeps its first stage frozen in train mode, as detector backbones do, and returns nothing then."""

    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.out_channels = list(channels)
        self.stages = nn.ModuleList(map(stage, (3, *channels[:-1]), channels))

    def train(self, mode: bool = True) -> None:  # type: ignore[override]  # as it is written out there
        super().train(mode)
        self.stages[0].eval()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for one in self.stages:
            x = one(x)
            maps.append(x)
        return maps


class Segmenter(nn.Module):
    """A backbone, a projection of each level, the mean over each."""

    def __init__(self, backbone: Frozen) -> None:
        super().__init__()
        self.backbone = backbone
        self.maps = nn.ModuleList(nn.Conv2d(channels, 4, 1) for channels in backbone.out_channels)

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [layer(level) for layer, level in zip(self.maps, self.backbone(x), strict=True)]


# Caches outside the module: a table of positions, by the size of the map. The weight is all that learns.

TABLES: dict[int, torch.Tensor] = {}
ENTRIES: list[tuple[int, torch.Tensor]] = []
LAST: torch.Tensor | None = None


class Positions(nn.Module):
    """A convolution, and a table that is added to each row of the map; subclasses say where the table is kept."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 2, 2)

    def table(self, size: int) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        return maps + self.table(maps.shape[-1]).to(maps.dtype)


@functools.lru_cache(maxsize=8)
def cached_table(size: int) -> torch.Tensor:
    return torch.arange(size).float()


class InLruCache(Positions):
    """In `functools.lru_cache`."""

    def table(self, size: int) -> torch.Tensor:
        return cached_table(size)


class InClassDict(Positions):
    """In a dict of the class."""

    tables: ClassVar[dict[int, torch.Tensor]] = {}

    def table(self, size: int) -> torch.Tensor:
        if size not in self.tables:
            self.tables[size] = torch.arange(size).float()
        return self.tables[size]


class InModuleDict(Positions):
    """In a dict of the Python module."""

    def table(self, size: int) -> torch.Tensor:
        return TABLES.setdefault(size, torch.arange(size).float()) if size not in TABLES else TABLES[size]


class OnItsType(Positions):
    """As an attribute of the class, made anew for another size."""

    kept: torch.Tensor | None = None

    def table(self, size: int) -> torch.Tensor:
        if self.kept is None or len(self.kept) != size:
            type(self).kept = torch.arange(size).float()
        assert self.kept is not None
        return self.kept


class NewOnItsType(Positions):
    """As an attribute of the class that is not there before."""

    def table(self, size: int) -> torch.Tensor:
        if not hasattr(self, "table_"):
            type(self).table_ = torch.arange(512).float()
        return self.table_[:size]


class InGlobal(Positions):
    """In a global name."""

    def table(self, size: int) -> torch.Tensor:
        global LAST
        if LAST is None or len(LAST) != size:
            LAST = torch.arange(size).float()
        return LAST


class InList(Positions):
    """In a list of the Python module."""

    def table(self, size: int) -> torch.Tensor:
        for known, table in ENTRIES:
            if known == size:
                return table
        ENTRIES.append((size, torch.arange(size).float()))
        return ENTRIES[-1][1]


class InDefault(Positions):
    """In the default of an argument."""

    def table(self, size: int, known: dict[int, torch.Tensor] = {}) -> torch.Tensor:  # noqa: B006  # the trick itself
        if size not in known:
            known[size] = torch.arange(size).float()
        return known[size]


def remembered(function: Callable[[int], torch.Tensor]) -> Callable[[int], torch.Tensor]:
    known: dict[int, torch.Tensor] = {}

    @functools.wraps(function)
    def run(size: int) -> torch.Tensor:
        if size not in known:
            known[size] = function(size)
        return known[size]

    return run


@remembered
def remembered_table(size: int) -> torch.Tensor:
    return torch.arange(size).float()


class InClosure(Positions):
    """In what a decorator closes over."""

    def table(self, size: int) -> torch.Tensor:
        return remembered_table(size)


class Store:
    """Keeps tables as attributes of its own."""

    def __init__(self) -> None:
        self.tables: dict[int, torch.Tensor] = {}

    def __call__(self, size: int) -> torch.Tensor:
        if size not in self.tables:
            self.tables[size] = torch.arange(size).float()
        return self.tables[size]


STORE = Store()


class InObject(Positions):
    """In an object of the Python module."""

    def table(self, size: int) -> torch.Tensor:
        return STORE(size)


THREAD = threading.local()


class InThread(Positions):
    """In what the thread keeps."""

    def table(self, size: int) -> torch.Tensor:
        if getattr(THREAD, "size", None) != size:
            THREAD.size, THREAD.table = size, torch.arange(size).float()
        return THREAD.table


class InOwnLruCache(Positions):
    """In an `lru_cache` that the module holds, and that its copies share."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__(channels)
        self.cached = functools.lru_cache(maxsize=None)(lambda size: torch.arange(size).float())

    def table(self, size: int) -> torch.Tensor:
        return self.cached(size)


CACHING = [
    InLruCache,
    InClassDict,
    InModuleDict,
    OnItsType,
    NewOnItsType,
    InGlobal,
    InList,
    InDefault,
    InClosure,
    InObject,
    InThread,
    InOwnLruCache,
]


# What meta does not show, and what no single run shows. A convolution each, and one habit.


class Halves(nn.Module):
    """One convolution that halves height and width."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Sparse(Halves):
    """Returns a map and a sparse matrix."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.conv(x)
        return {"maps": maps, "pairs": maps.flatten(1).to_sparse()}


class Quantised(Halves):
    """Returns what is quantised."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.quantize_per_tensor(self.conv(x), 0.1, 0, torch.qint8)


class OtherDtype(Halves):
    """Returns float64 where there are values, and float32 where there are none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        return maps if maps.is_meta else maps.double()


class EveryThird(Halves):
    """A row less on every third call."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.conv(x)[:, :, (self.calls % 3 == 0) :]


class EverySecondForReal(Halves):
    """A row less on every second call, where there are values."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += not x.is_meta
        return self.conv(x)[:, :, (self.calls % 2 == 0 and not x.is_meta) :]


class RandomRows(Halves):
    """Some rows, at random."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)[:, :, : random.randint(3, 6)]


class Counts(Halves):
    """Values that depend on how often it was called."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.conv(x) + self.calls


class CountsForReal(Halves):
    """The same with code that looks at values."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += int(x.sum().item() > -1e9)
        return self.conv(x) + self.calls


class ByThread(Halves):
    """Values that depend on the time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + time.perf_counter_ns() % 1_000_000


class LessAt224(Halves):
    """A row less where an image is 224 pixels wide."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)[:, :, (x.shape[-1] == 224) :]


class KeepsItsFirstSize(Halves):
    """Adds a table of the size of its first call for real, and raises at another."""

    table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        if maps.is_meta:
            return maps
        self.table = torch.zeros(maps.shape[-1]) if self.table is None else self.table
        return maps + self.table


class NotFinite(Halves):
    """The root of what is below zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -1 - self.conv(x).square().sqrt() + (-1 - self.conv(x).square()).sqrt()


class Noise(Halves):
    """Draws random numbers in eval mode too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + torch.randn(1).to(x)


class NeedsTwo(Halves):
    """Refuses a batch of one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] < 2 and not x.is_meta:
            raise ValueError("at least two samples")
        return self.conv(x)


class RunsNoted(Halves):
    """Notes the shapes of the runs for real, in a queue that all copies share and that is no cache."""

    shapes: ClassVar[deque[tuple[int, ...]]] = deque()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_meta:
            self.shapes.append(tuple(x.shape))
        return self.conv(x)
