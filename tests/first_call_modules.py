"""Modules that keep something of their first call and hold every later one to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional


class Strided(nn.Module):
    """Half the size of the image."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class KeepsSize(Strided):
    """Resizes to the size of its first call."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(width)
        self.sizes: dict[str, Any] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        return functional.interpolate(maps, self.sizes.setdefault("size", maps.shape[-2:]))


class InAttribute(Strided):
    size: tuple[int, int] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        self.size = self.size or maps.shape[-2:]
        return functional.interpolate(maps, self.size)


class OnClass(Strided):
    size: ClassVar[tuple[int, int] | None] = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        OnClass.size = OnClass.size or (maps.shape[-2], maps.shape[-1])
        return functional.interpolate(maps, OnClass.size)


class InClassDict(Strided):
    sizes: ClassVar[dict[str, Any]] = {}

    forward = KeepsSize.forward


def _remembering() -> Callable[[torch.Tensor], torch.Tensor]:
    kept: list[tuple[int, ...]] = []

    def resize(maps: torch.Tensor) -> torch.Tensor:
        if not kept:
            kept.append(maps.shape[-2:])
        return functional.interpolate(maps, kept[0])

    return resize


class InClosure(Strided):
    def __init__(self, width: int = 4) -> None:
        super().__init__(width)
        self.resize = _remembering()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resize(self.conv(x))


class Grid(Strided):
    """Samples at a grid that is made at the first call."""

    grid: torch.Tensor | None

    def __init__(self, width: int = 4) -> None:
        super().__init__(width)
        self.register_buffer("grid", None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        if self.grid is None:
            axes = [torch.linspace(-1, 1, size, device=x.device) for size in maps.shape[:-3:-1]]
            self.grid = torch.stack(torch.meshgrid(*axes, indexing="xy"), -1)[None]
        return functional.grid_sample(maps, self.grid.expand(len(maps), -1, -1, -1), align_corners=False)


class Ramp(Strided):
    """Adds a table of its first call, resized: only values depend on it."""

    table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        if self.table is None:
            self.table = torch.arange(float(maps.shape[-1]), device=x.device).expand(1, 1, maps.shape[-2], -1)
        return maps + functional.interpolate(self.table, maps.shape[-2:])


class Samples(Strided):
    """Returns as many samples as the first call had."""

    samples: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.samples = self.samples or len(x)
        return self.conv(x)[: self.samples]


class Sequence(nn.Module):
    """Resizes a sequence to the length of the first one, and looks at values."""

    length: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.isfinite().all().item()
        self.length = self.length or x.shape[-1]
        return functional.interpolate(x, self.length)


class Follows(Strided):
    """Keeps the size of the last call, which is no fault."""

    size: tuple[int, int] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        self.size = maps.shape[-2:] if self.size != maps.shape[-2:] else self.size
        return functional.interpolate(maps, self.size)


class Grows(Strided):
    """Adds a table that is made longer where an image needs it and cut where it does not, which is no fault."""

    table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        if self.table is None or len(self.table) < maps.shape[-1]:
            self.table = torch.arange(float(maps.shape[-1]), device=x.device)
        return maps + self.table[: maps.shape[-1]]
