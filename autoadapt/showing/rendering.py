"""Rendering: pages and pictures from the templates beside this file, in which every text of a result is escaped."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoadapt.errors.printable import visible
from autoadapt.showing.colours import COLOURS, kind_class
from autoadapt.showing.shapes import Shape

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, filters: Mapping[str, Any] | None = None, /, **values: Any) -> str:
    """Fill in a template.

    Args:
        template: Its file in `templates`.
        filters: What of it is worked out in Python, by the names that it has there.
        values: What stands in it; texts are escaped, control characters stand as their escapes.

    Returns:
        The text, a `markupsafe.Markup`.
    """
    from markupsafe import Markup

    made = _environment()
    made.filters.update(filters or {})
    return Markup(made.get_template(template).render(values))


def svg_of(
    title: str, width: float, height: float, shapes: Sequence[Shape], *, kinds: str = "aa-picture", alone: bool = False
) -> str:
    """A picture.

    Args:
        title: In a sentence, for who cannot see it.
        width: In pixels.
        height: In pixels.
        shapes: What is in it.
        kinds: Its classes.
        alone: Whether it is a file of its own, with its own colours and ground; else it takes those of the page.
    """
    values = {"title": title, "width": width, "height": height, "shapes": shapes, "kinds": kinds, "alone": alone}
    return render("picture.svg", None, **values)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("autoadapt.showing"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["operations"] = list(COLOURS)
    made.filters.update(class_name=lambda value: type(value).__name__, kind_class=kind_class, pixels=_pixels)
    return made


def _shown(value: object) -> object:
    return visible(value) if type(value) is str else value


def _pixels(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
