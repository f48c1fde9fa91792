"""Narrow diagrams: the same ways below each other, for a telephone or the margin of a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoadapt.showing.blocks import Block, draw_text, lines_of, text_height
from autoadapt.showing.diagrams import (
    MARGIN,
    boxed,
    chained,
    headed,
    legend,
    legend_entry,
    shared_remarks,
    step_block,
    unused_block,
)
from autoadapt.showing.flows import GAP, Flow, flow
from autoadapt.showing.parts import Diagram
from autoadapt.showing.rendering import svg_of
from autoadapt.showing.shapes import Shape

NARROW_WIDTH = 352.0
"""In pixels: what a page of 400 has left."""
LEFT = 18.0
"""Lines from one row to the next run left of it."""
ROOM = NARROW_WIDTH - LEFT - MARGIN


def narrow_svg(diagram: Diagram, *, alone: bool = False) -> str:
    """Draw a diagram with each way from its source to its target in rows; see `diagrams.svg`."""
    drawn: list[Shape] = []
    top = MARGIN
    for part in _parts(diagram):
        drawn += part.draw(LEFT, top)
        top += part.height + GAP
    places = list(legend(diagram, LEFT, top, NARROW_WIDTH))
    drawn += [shape for place in places for shape in legend_entry(*place)]
    height = places[-1][1] + 18 + MARGIN if places else top
    return svg_of(diagram.title, NARROW_WIDTH, height, drawn, alone=alone)


@dataclass(frozen=True)
class _Texts:
    """Lines below each other."""

    lines: Sequence[tuple[str, str]]

    @property
    def height(self) -> float:
        return text_height(self.lines)

    def draw(self, left: float, top: float) -> Sequence[Shape]:
        return draw_text(self.lines, left, top)


@dataclass(frozen=True)
class _Way:
    """Blocks in rows, and a remark below them."""

    flow: Flow
    remark: _Texts

    @property
    def height(self) -> float:
        return self.flow.height + (4 + self.remark.height if self.remark.lines else 0) + GAP

    def draw(self, left: float, top: float) -> Sequence[Shape]:
        remark = self.remark.draw(left, top + self.flow.height + 4)
        return [*self.flow.lines(left, top), *self.flow.draw(left, top), *remark]


def _parts(diagram: Diagram) -> Iterator[_Texts | _Way]:
    """From top to bottom."""
    lines = [*headed("new", (diagram.source, ""), ROOM), *headed("contract of", diagram.target, ROOM)]
    yield _Texts([*lines, *lines_of("head", diagram.notes, ROOM, 6)])
    for box, steps in diagram.inputs:
        yield _way([boxed(box), *map(step_block, steps)])
    shared = shared_remarks(diagram.lanes)
    boxes = [*(box for box, _ in diagram.inputs), *diagram.sources]
    for lane in diagram.lanes:
        blocks = [boxed(boxes[lane.source]), *chained(lane), boxed(lane.target)]
        yield _way(blocks, shared.get(lane.remark, lane.remark))
    unused = unused_block(diagram)
    yield from [_way([unused])] if unused else []
    if shared:
        yield _Texts(lines_of("remark", (f"{note}: {remark}" for remark, note in shared.items()), ROOM, 6))


def _way(blocks: list[Block], remark: str = "") -> _Way:
    return _Way(flow(blocks, ROOM), _Texts(lines_of("remark", filter(None, [remark]), ROOM, 6)))
