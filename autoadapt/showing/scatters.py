"""Scatters: points of logarithmic cost with their names, drawn as an SVG; nothing lies on a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoadapt.errors.printable import visible
from autoadapt.showing.blocks import FONTS, fitted, text_width
from autoadapt.showing.label_places import NEAR, Area, corners, free_place, line_areas
from autoadapt.showing.parts import Dot, Scatter
from autoadapt.showing.rendering import svg_of
from autoadapt.showing.shapes import Circle, Group, Path, Shape, Text

HEIGHT = 470.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 20.0, 34.0, 52.0
LONGEST_NAME = 30
FEWEST_TICKS, MOST_TICKS = 3, 8
READABLE_SCATTER = 570
"""Pixels below which the letters would be too small."""


def scatter_svg(scatter: Scatter, *, width: float = 760.0) -> str:
    """Draw a scatter in the colours of the page around it."""
    across = _logarithmic([dot.across for dot in scatter.dots])
    up = _linear([dot.up for dot in scatter.dots])
    frame = _Frame(across, up, width)
    shapes = [*_grid(scatter, frame), *_front(scatter.dots, frame), *_dots(scatter.dots, frame)]
    return svg_of(scatter.title, width, HEIGHT, shapes, kinds="aa-picture aa-scatter")


class _Axis:
    """Where values stand along an axis, and which of them are written."""

    def __init__(self, low: float, high: float, ticks: Sequence[float], scale: Callable[[float], float]) -> None:
        self._low, self._length, self._scale = scale(low), scale(high) - scale(low), scale
        self.ticks = ticks

    def at(self, value: float, start: float, end: float) -> float:
        return start + (end - start) * (self._scale(value) - self._low) / self._length


@dataclass(frozen=True)
class _Frame:
    """Two axes in a picture."""

    across: _Axis
    up: _Axis
    width: float

    @property
    def inside(self) -> Area:
        """Where points stand."""
        return (LEFT, TOP, self.width - RIGHT, HEIGHT - BOTTOM)

    def x(self, value: float) -> float:
        return self.across.at(value, LEFT, self.width - RIGHT)

    def y(self, value: float) -> float:
        return self.up.at(value, HEIGHT - BOTTOM, TOP)


def _logarithmic(values: Sequence[float]) -> _Axis:
    """Costs; what costs nothing stands at the left end."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive) / 1.25, max(positive) * 1.25
    return _Axis(low, high, cost_ticks(low, high), lambda value: math.log(max(value, low)))


def cost_ticks(low: float, high: float) -> list[float]:
    """Costs as people write them: 1 2 5 10, powers of ten where those are many, equal steps where they are few.

    Example:
        >>> cost_ticks(0.8, 30), cost_ticks(0.17, 0.31)
        ([1.0, 2.0, 5.0, 10.0, 20.0], [0.18, 0.2, 0.22, 0.24, 0.26, 0.28, 0.3])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [round(digit * 10.0**decade, 15) for decade in decades for digit in (1, 2, 5)]
    within = [tick for tick in ticks if low <= tick <= high]
    if len(within) > MOST_TICKS:
        return [tick for tick in within if tick in ticks[::3]]
    return within if len(within) >= FEWEST_TICKS else _steps(low, high)


def _linear(values: Sequence[float]) -> _Axis:
    margin = (max(values) - min(values) or abs(values[0]) or 1.0) * 0.08
    low, high = min(values) - margin, max(values) + margin
    return _Axis(low, high, _steps(low, high), float)


def _steps(low: float, high: float) -> list[float]:
    """Round numbers at equal steps, three to eight of them or so."""
    decade = 10.0 ** math.floor(math.log10(high - low))
    step = next(part for part in (decade / 5, decade / 2, decade, decade * 2) if (high - low) / part <= 7)
    first = math.floor(low / step)
    digits = 12 - math.floor(math.log10(step))
    return [tick for i in range(9) if low <= (tick := round((first + i) * step, digits)) <= high]


def _grid(scatter: Scatter, frame: _Frame) -> list[Shape]:
    left, top, right, bottom = frame.inside
    drawn: list[Shape] = []
    for tick in frame.across.ticks:
        x = frame.x(tick)
        drawn += [Path(f"M{x:.1f} {top}V{bottom}", "aa-rule"), _text(f"{tick:g}", x, bottom + 18)]
    for tick in frame.up.ticks:
        y = frame.y(tick)
        drawn += [Path(f"M{left} {y:.1f}H{right}", "aa-rule")]
        drawn += [_text(f"{tick:g}", left - 8, y + 4, anchor="end")]
    titles = _text(scatter.across, (left + right) / 2, HEIGHT - 12), _text(scatter.up, 8, 18, anchor="start")
    return [*drawn, *titles]


def _best(dots: Sequence[Dot], frame: _Frame) -> list[tuple[float, float]]:
    return sorted((frame.x(dot.across), frame.y(dot.up)) for dot in dots if dot.marked)


def _front(dots: Sequence[Dot], frame: _Frame) -> list[Shape]:
    """A line in steps through the best."""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in corners(_best(dots, frame)))
    return [Path(f"M{path}", "aa-front")] if "L" in path else []


def _dots(dots: Sequence[Dot], frame: _Frame) -> list[Shape]:
    places = [(frame.x(dot.across), frame.y(dot.up)) for dot in dots]
    taken: list[Area] = [*((x - 6, y - 6, x + 6, y + 6) for x, y in places), *line_areas(_best(dots, frame))]
    drawn: list[Shape] = []
    for dot, (x, y) in zip(dots, places, strict=True):
        name = fitted(visible(dot.name), LONGEST_NAME)
        width, height = text_width(name, "spec"), FONTS["spec"].line
        place = free_place(x, y, width, height, taken, frame.inside)
        taken.append(place.box)
        left, top = x + place.dx, y + place.dy
        end = min(max(x, left), left + width)
        lead = [Path(f"M{x:.1f} {y:.1f}L{end:.1f} {top + height / 2:.1f}", "aa-lead")]
        parts: list[Shape] = [
            *(lead if place.distance > NEAR else []),
            Circle(x, y, 4.5),
            Text(name, left, top + height * 0.77, "aa-spec"),
        ]
        title = f"{dot.name}: {dot.across:.3g}, {dot.up:.3g}"
        drawn.append(Group(parts, "aa-best" if dot.marked else "aa-dot", title))
    return drawn


def _text(text: str, x: float, y: float, *, anchor: str = "middle") -> Text:
    return Text(text, x, y, "aa-head", anchor)
