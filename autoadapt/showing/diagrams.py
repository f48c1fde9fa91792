"""Diagrams: the ways from what a module offers to what is asked of it, laid out and drawn as an SVG.

At left what is offered, in the order in which it is made; at right what is asked, a lane each; the chains between.
Nothing lies on anything else: texts have the room they need in the widest usual font, and lines run between columns.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoadapt.showing.blocks import PADDING, Block, draw_text, lines_of, text_height, text_width
from autoadapt.showing.colours import COLOURS, kind_class
from autoadapt.showing.flows import GAP, Flow, curve, flow
from autoadapt.showing.parts import Box, Diagram, Lane, Step
from autoadapt.showing.rendering import svg_of
from autoadapt.showing.shapes import Group, Path, Rect, Shape

MARGIN = 14.0
GUTTER = 46.0
"""Between the columns; lines that are not level run here only."""
SIDE_ROOM = 272.0
SIDE_LEAST = 100.0
CHAIN_ROOM = 600.0
CHAIN_LEAST = 300.0
READABLE = 0.75
OFTEN = 4
"""A remark that so many lanes have stands below once."""


def svg(diagram: Diagram, *, alone: bool = False) -> str:
    """Draw a diagram.

    Args:
        diagram: What to draw.
        alone: Whether it is a file of its own, with its own colours; else it takes those of the page.
    """
    laid = _Layout(diagram)
    return svg_of(diagram.title, laid.width, laid.height, laid.draw(), alone=alone)


def readable_width(diagram: Diagram) -> int:
    """Pixels that a picture needs; shrunk to fewer its letters would be too small."""
    return round(_Layout(diagram).width * READABLE)


@dataclass
class _Chain:
    """A lane with its blocks; places are relative to its top."""

    lane: Lane
    flow: Flow
    target: Block
    remark: list[tuple[str, str]]
    source_height: float = 0.0

    @property
    def lead(self) -> float:
        """Where its steps begin: below the top where source or target, which stand beside them, are higher."""
        centres = self.flow.centres
        return max(0.0, self.source_height / 2 - centres[0], self.target.height / 2 - centres[-1])

    @property
    def start(self) -> float:
        """The middle of the first row of steps."""
        return self.lead + self.flow.centres[0]

    @property
    def end(self) -> float:
        """The middle of the last."""
        return self.lead + self.flow.centres[-1]

    @property
    def remark_top(self) -> float:
        return self.lead + self.flow.height + 4

    @property
    def height(self) -> float:
        remark = self.remark_top + text_height(self.remark) if self.remark else 0
        below = max(self.lead + self.flow.height, self.end + self.target.height / 2)
        return max(below, remark, self.start + self.source_height / 2)


class _Layout:
    """Where everything stands."""

    def __init__(self, diagram: Diagram) -> None:
        self.diagram = diagram
        self.inputs = [(boxed(box), [step_block(step) for step in steps]) for box, steps in diagram.inputs]
        self.sources = [boxed(box) for box in diagram.sources]
        self.unused = unused_block(diagram)
        self.shared = shared_remarks(diagram.lanes)
        self.chains = [self._chain(lane) for lane in diagram.lanes]
        self.side = max(SIDE_LEAST, *(block.width for block in self._left_blocks()))
        self.target_side = max(SIDE_LEAST, *(chain.target.width for chain in self.chains))
        self.middle = max(CHAIN_LEAST, *(chain.flow.width for chain in self.chains))
        self.left = MARGIN + PADDING + 4
        self.chain_left = self.left + self.side + PADDING + 4 + GUTTER
        self.target_left = self.chain_left + self.middle + GUTTER
        self.width = self.target_left + self.target_side + PADDING + 4 + MARGIN
        self._place()

    def _left_blocks(self) -> Iterator[Block]:
        for block, steps in self.inputs:
            yield from (block, *steps)
        yield from self.sources
        yield from [self.unused] if self.unused else []

    def _chain(self, lane: Lane) -> _Chain:
        chain = _Chain(lane, flow(chained(lane), CHAIN_ROOM), boxed(lane.target), [])
        if lane.remark:
            remark = self.shared.get(lane.remark, lane.remark)
            chain.remark = lines_of("remark", [remark], max(chain.flow.width, CHAIN_LEAST) + GUTTER / 2)
        if lane.source >= len(self.inputs):
            chain.source_height = self.sources[lane.source - len(self.inputs)].height
        return chain

    def _place(self) -> None:
        """Titles, what is given, then lanes; each source in the middle of the lanes it serves, none on another."""
        notes = lines_of("head", self.diagram.notes, self.middle + GUTTER / 2)
        self.titles = [
            (self.left, headed("new", (self.diagram.source, ""), self.side)),
            (self.chain_left, [("title", "adapters"), *notes]),
            (self.target_left, headed("contract of", self.diagram.target, self.target_side)),
        ]
        top = MARGIN + PADDING
        below_title = top + text_height(self.titles[0][1]) + 8
        self.input_tops: list[float] = []
        for block, steps in self.inputs:
            self.input_tops.append(below_title)
            below_title += block.height + GAP + sum(step.height + GAP for step in steps)
        heads = max(text_height(lines) for _, lines in self.titles)
        lane_top = max(top + heads + GAP, below_title + GAP / 2)
        self.lane_tops: list[float] = []
        for chain in self.chains:
            self.lane_tops.append(lane_top)
            lane_top += chain.height + 2 * GAP
        self.centres = self._source_centres(below_title)
        self.unused_top = max(
            (c + b.height / 2 for c, b in zip(self.centres, self.sources, strict=True)), default=below_title
        )
        self.unused_top += GAP
        bottom = self.unused_top + (self.unused.height if self.unused else -GAP)
        self.bottom = max(bottom, lane_top - 2 * GAP) + PADDING + 2
        shared = [f"{note}: {remark}" for remark, note in self.shared.items()]
        self.notes = lines_of("remark", shared, self.width - 2 * self.left)
        below = self.bottom + GAP + text_height(self.notes) + (GAP / 2 if self.notes else 0)
        self.legend = list(legend(self.diagram, self.left, below, self.width))
        self.height = (max(y for _, y, _ in self.legend) + 18 if self.legend else below - GAP) + MARGIN - 4

    def _source_centres(self, top: float) -> list[float]:
        """Sources are in their own order: the first takes the first place that any of them would like."""
        liked: list[float] = []
        for i in range(len(self.sources)):
            served = [
                lane_top + chain.start
                for lane_top, chain in zip(self.lane_tops, self.chains, strict=True)
                if chain.lane.source == i + len(self.inputs)
            ]
            liked.append(sum(served) / len(served))
        centres = []
        for block, place in zip(self.sources, sorted(liked), strict=True):
            centre = max(place, top + block.height / 2)
            centres.append(centre)
            top = centre + block.height / 2 + GAP
        return centres

    def draw(self) -> list[Shape]:
        """Panels, lines, blocks, titles, legend."""
        target_panel = self.target_left - PADDING - 4
        return [
            Rect(MARGIN, MARGIN, self.side + 2 * PADDING + 8, self.bottom - MARGIN, 8, "aa-panel"),
            Rect(target_panel, MARGIN, self.target_side + 2 * PADDING + 8, self.bottom - MARGIN, 8, "aa-panel"),
            *self._spine(),
            *(line for i in range(len(self.chains)) for line in self._lines(i)),
            *self._left_side(),
            *(block for i in range(len(self.chains)) for block in self._lane(i)),
            *(line for left, lines in self.titles for line in draw_text(lines, left, MARGIN + PADDING)),
            *draw_text(self.notes, self.left, self.bottom + GAP),
            *(shape for place in self.legend for shape in legend_entry(*place)),
        ]

    def _left_side(self) -> Iterator[Shape]:
        for (block, steps), top in zip(self.inputs, self.input_tops, strict=True):
            yield block.draw(self.left, top, self.side)
            top += block.height + GAP
            for step in steps:
                yield step.draw(self.left, top, self.side)
                top += step.height + GAP
        for block, centre in zip(self.sources, self.centres, strict=True):
            yield block.draw(self.left, centre - block.height / 2, self.side)
        if self.unused:
            yield self.unused.draw(self.left, self.unused_top, self.side)

    def _spine(self) -> Iterator[Shape]:
        """From what is given through the sources in their order."""
        x = self.left + 20
        ends: list[tuple[float, float]] = []
        for (block, steps), top in zip(self.inputs, self.input_tops, strict=True):
            for one in (block, *steps):
                ends.append((top, top + one.height))
                top += one.height + GAP
        ends += [(c - b.height / 2, c + b.height / 2) for c, b in zip(self.centres, self.sources, strict=True)]
        for (_, above), (below, _) in itertools.pairwise(ends):
            yield Path(f"M{x:.1f} {above:.1f}V{below:.1f}")

    def _source_at(self, index: int) -> float:
        """The middle of an input or a source."""
        if index < len(self.inputs):
            return self.input_tops[index] + self.inputs[index][0].height / 2
        return self.centres[index - len(self.inputs)]

    def _lines(self, index: int) -> Iterator[Shape]:
        chain, top = self.chains[index], self.lane_tops[index]
        start = self.left + self.side
        yield from curve(start, self._source_at(chain.lane.source), self.chain_left, top + chain.start)
        yield from chain.flow.lines(self.chain_left, top + chain.lead)
        yield from curve(self.chain_left + chain.flow.end, top + chain.end, self.target_left, top + chain.end)

    def _lane(self, index: int) -> Iterator[Shape]:
        chain, top = self.chains[index], self.lane_tops[index]
        yield from chain.flow.draw(self.chain_left, top + chain.lead)
        yield from draw_text(chain.remark, self.chain_left, top + chain.remark_top)
        yield chain.target.draw(self.target_left, top + chain.end - chain.target.height / 2, self.target_side)


def boxed(box: Box) -> Block:
    """A tensor: its name, and what it is."""
    room = SIDE_ROOM - 2 * PADDING
    lines = [*lines_of("name", [box.name], room, 2), *lines_of("spec", filter(None, [box.spec]), room)]
    return Block(tuple(lines), full=f"{box.name}  {box.spec}")


def unused_block(diagram: Diagram) -> Block | None:
    """What of the module is not needed."""
    title, text = diagram.unused
    lines = [("caption", title), *lines_of("spec", [text], SIDE_ROOM - 2 * PADDING, 4)]
    return Block(tuple(lines), "aa-unused", full=f"{title}: {text}") if text else None


def step_block(step: Step) -> Block:
    """One operation: its kind, what it does, and what comes out."""
    lines = [("caption", f"{step.kind}  {step.note}".rstrip()), *lines_of("label", [step.label], 220)]
    lines += lines_of("spec", filter(None, [step.gives]), 220)
    return Block(tuple(lines), kind_class(step.kind), full=f"{step.text}  {step.gives}".rstrip())


def chained(lane: Lane) -> list[Block]:
    """The operations of a lane, of which there may be none."""
    return [step_block(step) for step in lane.steps] or [Block((("caption", "as it is"),), "aa-plain")]


def shared_remarks(lanes: Sequence[Lane]) -> dict[str, str]:
    """What stands in the place of remarks that many lanes have."""
    counts = Counter(lane.remark for lane in lanes if lane.remark)
    often = [remark for remark, count in counts.items() if count >= OFTEN]
    return {remark: f"note {i}" for i, remark in enumerate(often, 1)}


def legend(diagram: Diagram, start: float, top: float, width: float) -> Iterator[tuple[float, float, Step]]:
    """Where each kind of operation that occurs is explained: left, top, and one of it."""
    steps = [step for _, done in diagram.inputs for step in done]
    used = {step.kind: step for step in (*steps, *(step for lane in diagram.lanes for step in lane.steps))}
    left = start
    for step in (used[name] for name in COLOURS if name in used):
        taken = 22 + text_width(f"{step.kind}: {step.says}", "head") + 14
        if left > start and left + taken > width - MARGIN:
            left, top = start, top + 20
        yield left, top, step
        left += taken


def headed(label: str, named: tuple[str, str], room: float) -> list[tuple[str, str]]:
    """The lines of a title: a label, a name, and what there is to say of it."""
    styled = zip(("title", "head"), named, strict=True)
    return [("head", label), *(line for style, text in styled if text for line in lines_of(style, [text], room))]


def legend_entry(left: float, top: float, step: Step) -> Sequence[Shape]:
    """A swatch and what it means."""
    words = draw_text([("head", f"{step.kind}: {step.says}")], left + 20, top)
    return [Group([Rect(left, top + 1, 14, 12, 3)], f"{kind_class(step.kind)} aa-swatch"), *words]
