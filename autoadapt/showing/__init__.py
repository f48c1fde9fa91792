"""Showing: results as tables, pages and pictures, from the same facts."""

from autoadapt.showing.diagrams import svg
from autoadapt.showing.hypertext import cell, fragment, section_element
from autoadapt.showing.markup import Markup, element
from autoadapt.showing.parts import (
    Badge,
    Box,
    Cell,
    Code,
    Column,
    Diagram,
    Facts,
    Faults,
    Folded,
    Lane,
    Name,
    Part,
    Section,
    Share,
    Step,
    Steps,
    Table,
    Tone,
)
from autoadapt.showing.shown import Shown, section_of
from autoadapt.showing.styles import RULES, SCOPE

__all__ = [
    "RULES",
    "SCOPE",
    "Badge",
    "Box",
    "Cell",
    "Code",
    "Column",
    "Diagram",
    "Facts",
    "Faults",
    "Folded",
    "Lane",
    "Markup",
    "Name",
    "Part",
    "Section",
    "Share",
    "Shown",
    "Step",
    "Steps",
    "Table",
    "Tone",
    "cell",
    "element",
    "fragment",
    "section_element",
    "section_of",
    "svg",
]
