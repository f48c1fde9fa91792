"""Modules that return something else at the next call: by random numbers, or by what they returned before."""

from __future__ import annotations

import contextvars
import random
import threading

import torch
from stateful_modules import Halves
from torch import nn


class DropoutThatStaysOn(Halves):
    """Forgets `training=self.training`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.conv(x), 0.5)


class PythonNoise(Halves):
    """Draws from Python's generator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + random.random()


class DrawsInVain(Halves):
    """Draws a number that nothing depends on, as layers that may be dropped in train mode do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if torch.rand(()) < 2 or x.is_meta else x


class AddsItsLast(Halves):
    """Adds its last output where that has the same shape, as trackers and recurrent backbones do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last, self.last = getattr(self, "last", None), self.conv(x)
        alike = last is not None and last.shape == self.last.shape and last.device == self.last.device
        return self.last + 0.1 * last if alike else self.last


class KeepsItsLast(Halves):
    """Keeps its last output in a list for whoever asks, and never reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.maps[:] = [self.conv(x)]
        return self.maps[0]


class OneThread(Halves):
    """Another shape in other threads than the one that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y if threading.get_ident() == self.thread else y[..., :-1]


_HERE = threading.local()
_HERE.scale = 2.0


class ScaledHere(Halves):
    """Reads a setting that its own thread has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * getattr(_HERE, "scale", 1.0)


class OnlyHere(Halves):
    """Raises in other threads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * _HERE.scale


_SCALE = contextvars.ContextVar("scale", default=1.0)


class ScaledInContext(Halves):
    """Reads a setting that the caller's context has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * _SCALE.get()


def scaled_by(scale: float) -> None:
    _SCALE.set(scale)
