"""Showing: results as tables, pages and pictures, from the same facts."""

from autoadapt.showing.diagrams import svg
from autoadapt.showing.displays import Shown, section_of
from autoadapt.showing.hypertext import fragment, page
from autoadapt.showing.label_places import NEAR, Area, free_place, line_areas
from autoadapt.showing.narrow_diagrams import narrow_svg
from autoadapt.showing.parts import (
    Badge,
    Box,
    Cell,
    Code,
    Column,
    Diagram,
    Dot,
    Facts,
    Faults,
    Folded,
    Lane,
    Name,
    Part,
    Scatter,
    Section,
    Share,
    Step,
    Steps,
    Table,
    Tone,
)
from autoadapt.showing.scatters import cost_ticks

__all__ = [
    "NEAR",
    "Area",
    "Badge",
    "Box",
    "Cell",
    "Code",
    "Column",
    "Diagram",
    "Dot",
    "Facts",
    "Faults",
    "Folded",
    "Lane",
    "Name",
    "Part",
    "Scatter",
    "Section",
    "Share",
    "Shown",
    "Step",
    "Steps",
    "Table",
    "Tone",
    "cost_ticks",
    "fragment",
    "free_place",
    "line_areas",
    "narrow_svg",
    "page",
    "section_of",
    "svg",
]
