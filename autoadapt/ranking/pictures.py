"""Pictures: points with names, cost against quality, the front of the best joined by a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoadapt.errors import RankingError
from autoadapt.errors.printable import visible
from autoadapt.showing import NEAR, Area, Dot, cost_ticks, free_place, line_areas
from autoadapt.showing.figures import check_drawable, save_figure


def draw(points: Sequence[Dot], path: str | Path, *, across: str, up: str, title: str) -> None:
    """Draw points of logarithmic cost.

    Args:
        points: Best first: their names are placed in this order.
        path: Where to.
        across: What the cost is.
        up: What the quality is.
        title: Above all.

    Raises:
        RankingError: matplotlib is not installed, or the ending is unknown.
    """
    check_drawable(path, RankingError)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), dpi=150, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xscale="log", xlabel=across, ylabel=up)
    axes.set_title(visible(title), loc="left", fontsize=11, parse_math=False)  # a name may hold a dollar sign
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    front = sorted((point for point in points if point.marked), key=lambda point: point.across)
    axes.plot([p.across for p in front], [p.up for p in front], color="tab:blue", alpha=0.5, drawstyle="steps-post")
    for marked, colour in ((False, "0.55"), (True, "tab:blue")):
        some = [point for point in points if point.marked is marked]
        axes.scatter([p.across for p in some], [p.up for p in some], s=26, color=colour, zorder=3)
    axes.margins(x=0.12, y=0.08)
    _plain_ticks(axes)
    canvas.draw()
    figure.set_layout_engine("none")  # names were placed for this layout
    label(axes, points, canvas.get_renderer())
    save_figure(figure, path)


def _plain_ticks(axes: Any) -> None:
    """Costs as people write them, 5 10 20 50, where a logarithmic axis has powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.xaxis.set_major_locator(FixedLocator(cost_ticks(*axes.get_xlim())))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def label(axes: Any, points: Sequence[Dot], renderer: Any) -> None:
    """Write each name at the nearest place that is free; a thin line leads to those farther away.

    Args:
        axes: A matplotlib axes that was laid out.
        points: In this order.
        renderer: Of its canvas, which knows how wide a text is.
    """
    from matplotlib.text import Text

    places = [axes.transData.transform((point.across, point.up)) for point in points]
    front = sorted(place for place, point in zip(map(tuple, places), points, strict=True) if point.marked)
    taken: list[Area] = [*((x - 7, y - 7, x + 7, y + 7) for x, y in places), *line_areas(front)]
    frame = axes.get_window_extent(renderer)
    to_points = 72 / axes.figure.dpi
    inside: Area = (frame.x0, frame.y0, frame.x1, frame.y1)
    for point, (x, y) in zip(points, places, strict=True):
        text = axes.annotate(
            visible(point.name),
            (point.across, point.up),
            xytext=(0, 0),
            textcoords="offset points",
            ha="left",
            va="bottom",
            parse_math=False,
            fontsize=8 if len(points) <= 30 else 6.5,
            color="black" if point.marked else "0.35",
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "0.6", "shrinkA": 0, "shrinkB": 3},
        )
        size = Text.get_window_extent(text, renderer)  # that of an annotation has its point in it
        place = free_place(x, y, size.width, size.height, taken, inside)
        text.set_position((place.dx * to_points, place.dy * to_points))
        text.arrow_patch.set_visible(place.distance > NEAR)
        taken.append(place.box)
