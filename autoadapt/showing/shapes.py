"""Shapes: what a picture is drawn from; all places and lengths are in pixels from the upper left corner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Rect:
    """A rectangle with round corners."""

    left: float
    top: float
    width: float
    height: float
    radius: float = 5
    kind: str = ""
    """The class that styles it, as with all shapes."""


@dataclass(frozen=True)
class Path:
    """A line, as SVG writes it."""

    d: str
    kind: str = ""


@dataclass(frozen=True)
class Circle:
    """A filled circle."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Text:
    """A line of text."""

    text: str
    left: float
    """Of its start, middle or end, as `anchor` says."""
    baseline: float
    kind: str
    anchor: str = "start"


@dataclass(frozen=True)
class Group:
    """Shapes that belong together."""

    shapes: Iterable[Shape]
    kind: str
    title: str = ""
    """What a pointer that rests on it is told."""


Shape: TypeAlias = Rect | Path | Circle | Text | Group
