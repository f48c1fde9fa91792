"""Hypertext: sections as HTML that asks for nothing and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from autoadapt.showing.diagrams import readable_width, svg
from autoadapt.showing.narrow_diagrams import NARROW_WIDTH, narrow_svg
from autoadapt.showing.parts import Diagram, Scatter, Section
from autoadapt.showing.rendering import render
from autoadapt.showing.scatters import READABLE_SCATTER, scatter_svg

SHORT = 20


def fragment(section: Section) -> str:
    """A section with its own style sheet, for a page of somebody else's, such as a notebook."""
    return render("fragment.html", _FILTERS, it=section)


def page(sections: list[Section], **values: Any) -> str:
    """Sections as a whole document, with what else its template names."""
    return render("page.html", _FILTERS, sections=sections, **values)


def _wide_picture(part: Diagram | Scatter) -> str:
    return svg(part) if isinstance(part, Diagram) else scatter_svg(part)


def _narrow_picture(part: Diagram | Scatter) -> str:
    return narrow_svg(part) if isinstance(part, Diagram) else scatter_svg(part, width=NARROW_WIDTH)


def _readable_width(part: Diagram | Scatter) -> int:
    return readable_width(part) if isinstance(part, Diagram) else READABLE_SCATTER


def _axes(text: str) -> Iterator[tuple[str, bool]]:
    """A text in pieces: what stands between commas, and whether it stays together because it is short."""
    for part in re.split(r"(?<=, )", text):
        if " " in part.strip() and len(part) <= SHORT:
            yield part.rstrip(), True
            yield part[len(part.rstrip()) :], False
        else:
            yield part, False


_LONG = re.compile(r"\S{17,}")
_PIECE = re.compile(r"\S{1,16}?(?:[./_,:=)-]+|(?!\S))|\S{16}")


def _pieces(text: str) -> list[str]:
    """A text where words that are too long for a column may be broken: best after a separator."""
    made, end = [""], 0
    for word in _LONG.finditer(text):
        first, *rest = _PIECE.findall(word.group())
        made[-1] += text[end : word.start()] + first
        made += [*rest, ""]
        end = word.end()
    made[-1] += text[end:]
    return made


_FILTERS = {
    "axes": _axes,
    "narrow_picture": _narrow_picture,
    "pieces": _pieces,
    "readable_width": _readable_width,
    "wide_picture": _wide_picture,
}
