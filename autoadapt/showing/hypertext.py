"""Hypertext: sections as HTML that asks for nothing and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from typing_extensions import assert_never

from autoadapt.showing.colours import kind_class
from autoadapt.showing.diagrams import readable_width, svg
from autoadapt.showing.markup import Markup, element
from autoadapt.showing.narrow_diagrams import NARROW_WIDTH, narrow_svg
from autoadapt.showing.parts import (
    Badge,
    Cell,
    Code,
    Column,
    Diagram,
    Facts,
    Faults,
    Folded,
    Name,
    Part,
    Scatter,
    Section,
    Share,
    Step,
    Steps,
    Table,
)
from autoadapt.showing.scatters import READABLE_SCATTER, scatter_svg
from autoadapt.showing.styles import RULES, SCOPE

__all__ = ["cell", "fragment", "section_element"]

SHORT = 20
FEW = 3
"""Tables of more columns become cards where there is little room."""


def fragment(section: Section) -> Markup:
    """A section with its own style sheet, for a page of somebody else's, such as a notebook."""
    return element("div", element("style", Markup(RULES)), section_element(section), class_=SCOPE)


def section_element(section: Section, *, level: int = 2, anchor: str = "") -> Markup:
    """A section under a heading.

    Args:
        section: What it holds.
        level: Of the heading.
        anchor: What links call it.
    """
    verdict = [Markup(" "), _badge(section.verdict)] if section.verdict else []
    kind = [element("span", section.kind, class_="aa-kindname"), Markup(" ")] if section.kind else []
    heading = element(f"h{level}", *kind, section.title, *verdict)
    inside = (_part(part, level) for part in section.parts)
    return element("section", heading, *inside, **({"id": anchor} if anchor else {}))


def _part(part: Part, level: int) -> Markup:
    match part:
        case Section():
            return section_element(part, level=min(level + 1, 4))
        case Table():
            return _table(part)
        case Facts(rows=rows):
            return element("dl", *(one for label, said in rows for one in _fact(label, cell(said))))
        case Faults(faults=faults):
            return element("div", *(one for fault in faults for one in _fault(fault.where, fault)), class_="aa-faults")
        case Folded(title=title, parts=parts):
            return element("details", element("summary", title), *(_part(one, level) for one in parts))
        case Code(text=text):
            return element("pre", text)
        case Diagram():
            return _frame(svg(part), narrow_svg(part), readable_width(part))
        case Scatter():
            return _frame(scatter_svg(part), scatter_svg(part, width=NARROW_WIDTH), READABLE_SCATTER)
        case _:
            assert_never(part)


def _frame(wide: Markup, narrow: Markup, least: int) -> Markup:
    """A picture in two widths: one where there is room for it, so that its letters can be read, and one elsewhere."""
    shown = f".{SCOPE} .aa-from-{least}{{display:%s}}.{SCOPE} .aa-below-{least}{{display:%s}}"
    rule = f"{shown % ('block', 'none')}@container (max-width:{least - 1}px){{{shown % ('none', 'block')}}}"
    pictures = element("div", wide, class_=f"aa-from-{least}"), element("div", narrow, class_=f"aa-below-{least}")
    return element("div", element("style", Markup(rule)), *pictures, class_="aa-frame")


def _fact(label: str, said: Markup) -> tuple[Markup, Markup]:
    return element("dt", label), element("dd", said)


def _fault(where: str, fault: object) -> list[Markup]:
    labelled = (("expected", "expected"), ("found", "found"), ("why", "why"), ("try", "remedy"))
    rows = [(label, getattr(fault, name)) for label, name in labelled]
    facts = [one for label, text in rows if text for one in _fact(label, element("span", text, class_="aa-name"))]
    return [element("p", where), element("dl", *facts)]


def _table(table: Table) -> Markup:
    table = table.trimmed()
    caption = [element("caption", table.title)] if table.title else []
    head = element("tr", *(element("th", column.title, scope="col", **_side(column)) for column in table.columns))
    rows = [
        element("tr", *(_entry(column, one) for column, one in zip(table.columns, row, strict=True)))
        for row in table.rows
    ]
    made = element("table", *caption, element("thead", head), element("tbody", *rows))
    return element("div", made, class_="aa-scroll" if len(table.columns) <= FEW else "aa-scroll aa-cards")


def _entry(column: Column, content: Cell) -> Markup:
    inside = [] if content == "" else [cell(content)]
    return element("td", *inside, data_label=column.title, **_side(column))


def _side(column: Column) -> dict[str, str]:
    return {"class_": "aa-right"} if column.right else {}


def cell(content: Cell) -> Markup:
    """What stands in a table or beside a label."""
    match content:
        case str():
            return element("span", *_breakable(content))
        case Name(text=text, strong=strong):
            return element("b" if strong else "span", *_axes(text), class_="aa-name")
        case Badge():
            return _badge(content)
        case Share(value=value, text=text):
            filled = element("i", style=f"width:{min(max(value, 0.0), 1.0) * 100:.1f}%")
            return element("span", element("span", filled, class_="aa-bar"), element("span", text), class_="aa-share")
        case Steps(steps=steps):
            return element("span", *map(_step, steps or (_AS_IT_IS,)), class_="aa-steps")
        case _:
            assert_never(content)


def _axes(text: str) -> Iterator[str]:
    """A text in which what stands between commas stays together, if it is short."""
    for part in re.split(r"(?<=, )", text):
        if " " in part.strip() and len(part) <= SHORT:
            yield element("span", part.rstrip(), class_="aa-whole")
            yield part[len(part.rstrip()) :]
        else:
            yield from _breakable(part)


_LONG = re.compile(r"\S{17,}")
_PIECE = re.compile(r"\S{1,16}?(?:[./_,:=)-]+|(?!\S))|\S{16}")


def _breakable(text: str) -> Iterator[str]:
    """A text in which words that are too long for a column may be broken, best after a separator."""
    end = 0
    for word in _LONG.finditer(text):
        yield text[end : word.start()]
        for piece in _PIECE.findall(word.group()):
            yield piece
            yield element("wbr")
        end = word.end()
    yield text[end:]


_AS_IT_IS = Step("", "as it is", "")


def _step(step: Step) -> Markup:
    gives = {"title": step.gives} if step.gives else {}
    return element("span", *_breakable(step.text), class_=f"aa-step {kind_class(step.kind)}", **gives)


def _badge(badge: Badge) -> Markup:
    return element("span", badge.text, class_=f"aa-badge aa-{badge.tone}")
