"""Scatters: points of logarithmic cost with their names, drawn as an SVG; nothing lies on a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from autoadapt.showing.blocks import FONTS, fitted, text_width
from autoadapt.showing.label_places import NEAR, Area, free_place
from autoadapt.showing.markup import Markup, element, visible
from autoadapt.showing.parts import Dot, Scatter

__all__ = ["READABLE_SCATTER", "SCATTER_RULES", "scatter_svg"]

WIDTH, HEIGHT = 760.0, 470.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 20.0, 34.0, 52.0
LONGEST_NAME = 30
READABLE_SCATTER = 570
"""Pixels below which the letters would be too small."""

SCATTER_RULES = """
.aa-scatter circle{fill:var(--aa-wire)}
.aa-scatter .aa-best circle{fill:var(--aa-good)}
.aa-scatter .aa-best text{fill:var(--aa-ink);font-weight:700}
.aa-scatter path.aa-front{stroke:var(--aa-good)}
.aa-scatter path.aa-rule{stroke:var(--aa-line);stroke-width:1}
.aa-scatter .aa-spec{paint-order:stroke;stroke:var(--aa-back);stroke-width:3px;stroke-linejoin:round}
.aa-scatter path.aa-lead{stroke-width:.7}
"""


def scatter_svg(scatter: Scatter) -> Markup:
    """Draw a scatter in the colours of the page around it."""
    across = _logarithmic([dot.across for dot in scatter.dots])
    up = _linear([dot.up for dot in scatter.dots])
    return element(
        "svg",
        element("title", scatter.title),
        element("g", *_grid(scatter, across, up)),
        *_front(scatter.dots, across, up),
        *_dots(scatter.dots, across, up),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
        width=f"{WIDTH:.0f}",
        height=f"{HEIGHT:.0f}",
        role="img",
        aria_label=scatter.title,
        class_="aa-picture aa-scatter",
    )


class _Axis:
    """Where values stand along an axis, and which of them are written."""

    def __init__(self, low: float, high: float, ticks: Sequence[float], scale: Callable[[float], float]) -> None:
        self._low, self._length, self._scale = scale(low), scale(high) - scale(low), scale
        self.ticks = [tick for tick in ticks if low <= tick <= high]

    def at(self, value: float, start: float, end: float) -> float:
        return start + (end - start) * (self._scale(value) - self._low) / self._length


def _logarithmic(values: Sequence[float]) -> _Axis:
    """Costs, with ticks as people write them: 1 2 5 10; what costs nothing stands at the left end."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive) / 1.25, max(positive) * 1.25
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return _Axis(low, high, ticks, lambda value: math.log(max(value, low)))


def _linear(values: Sequence[float]) -> _Axis:
    margin = (max(values) - min(values) or abs(values[0]) or 1.0) * 0.08
    low, high = min(values) - margin, max(values) + margin
    decade = 10.0 ** math.floor(math.log10(high - low))
    step = next(part for part in (decade / 5, decade / 2, decade, decade * 2) if (high - low) / part <= 7)
    first = math.floor(low / step)
    return _Axis(low, high, [round((first + i) * step, 12) for i in range(9)], float)


def _x(axis: _Axis, value: float) -> float:
    return axis.at(value, LEFT, WIDTH - RIGHT)


def _y(axis: _Axis, value: float) -> float:
    return axis.at(value, HEIGHT - BOTTOM, TOP)


def _grid(scatter: Scatter, across: _Axis, up: _Axis) -> list[Markup]:
    drawn = []
    for tick in across.ticks:
        x = _x(across, tick)
        drawn += [_line(f"M{x:.1f} {TOP}V{HEIGHT - BOTTOM}", "aa-rule"), _text(f"{tick:g}", x, HEIGHT - BOTTOM + 18)]
    for tick in up.ticks:
        y = _y(up, tick)
        drawn += [_line(f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", "aa-rule")]
        drawn += [_text(f"{tick:g}", LEFT - 8, y + 4, anchor="end")]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*drawn, _text(scatter.across, middle, HEIGHT - 12), _text(scatter.up, LEFT, 18, anchor="start")]


def _front(dots: Sequence[Dot], across: _Axis, up: _Axis) -> list[Markup]:
    """A line in steps through the best."""
    best = sorted((_x(across, dot.across), _y(up, dot.up)) for dot in dots if dot.marked)
    steps = [f"H{x:.1f}V{y:.1f}" for x, y in best[1:]]
    return [_line(f"M{best[0][0]:.1f} {best[0][1]:.1f}{''.join(steps)}", "aa-front")] if steps else []


def _dots(dots: Sequence[Dot], across: _Axis, up: _Axis) -> list[Markup]:
    places = [(_x(across, dot.across), _y(up, dot.up)) for dot in dots]
    taken: list[Area] = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    inside = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    drawn = []
    for dot, (x, y) in zip(dots, places, strict=True):
        name = fitted(visible(dot.name), LONGEST_NAME)
        width, height = text_width(name, "spec"), FONTS["spec"].line
        place = free_place(x, y, width, height, taken, inside)
        taken.append(place.box)
        left, top = x + place.dx, y + place.dy
        lead = [_line(f"M{x:.1f} {y:.1f}L{_nearest(x, left, width):.1f} {top + height / 2:.1f}", "aa-lead")]
        parts = [
            element("title", f"{dot.name}: {dot.across:.3g}, {dot.up:.3g}"),
            *(lead if place.distance > NEAR else []),
            element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5),
            _text(name, left, top + height * 0.77, anchor="start", kind="spec"),
        ]
        drawn.append(element("g", *parts, class_="aa-best" if dot.marked else "aa-dot"))
    return drawn


def _nearest(x: float, left: float, width: float) -> float:
    return min(max(x, left), left + width)


def _line(path: str, kind: str) -> Markup:
    return element("path", d=path, class_=kind)


def _text(text: str, x: float, y: float, *, anchor: str = "middle", kind: str = "head") -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=f"aa-{kind}")
