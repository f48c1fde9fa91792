"""Blocks: rectangles around lines of text in an SVG, as wide as the text can be in any usual font."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoadapt.errors.printable import visible
from autoadapt.showing.shapes import Group, Rect, Text


@dataclass(frozen=True)
class Font:
    """A class of text: its size in pixels, and the width of a character cell in terms of it."""

    size: float
    cell: float = 0.62
    """Fixed-width fonts have 0.55 to 0.61."""

    @property
    def line(self) -> float:
        """Height of a line in pixels."""
        return round(self.size * 1.32, 1)


FONTS = {
    "title": Font(15, 0.68),
    "name": Font(12.5),
    "label": Font(12),
    "spec": Font(11),
    "caption": Font(10.5),
    "remark": Font(11.5, 0.66),
    "head": Font(11, 0.72),
}
PADDING = 8.0
_NARROW = "…–—·×"
_SEPARATORS = (r"(?<=, )", r"(?<=\s)", r"(?<=[,./_*>:-])")
"""After which a text may be broken, the best first."""


def cells(text: str) -> int:
    """Character cells a text takes; two for what another font may have to lend."""
    return sum(0 if unicodedata.combining(c) else 1 if ord(c) < 0x250 or c in _NARROW else 2 for c in text)


def text_width(text: str, style: str) -> float:
    """Pixels that a text takes at most."""
    return cells(text) * FONTS[style].size * FONTS[style].cell


def wrapped(text: str, style: str, room: float, lines: int = 3) -> list[str]:
    """A text in lines of a width, broken between axes or words where that can be, cut short after so many.

    Example:
        >>> wrapped("f32[B, 192, floor(H/16), floor(W/16)]", "spec", 200)
        ['f32[B, 192, floor(H/16), ', 'floor(W/16)]']
        >>> wrapped("decoder.attentions.cross", "name", 100)
        ['decoder.', 'attentions.', 'cross']
    """
    fits = max(int(room / (FONTS[style].size * FONTS[style].cell)), 4)
    made = [""]
    for piece in _pieces(visible(text).replace("\n", " "), fits):
        if made[-1] and cells(made[-1] + piece.rstrip()) > fits:
            made.append(piece)
        else:
            made[-1] += piece
    if len(made) > lines:
        made = [*made[: lines - 1], fitted("".join(made[lines - 1 :]), fits)]
    return made


def lines_of(style: str, texts: Iterable[str], room: float, most: int = 3) -> list[tuple[str, str]]:
    """Texts in lines of a width, each line with its font; see `wrapped`."""
    return [(style, line) for text in texts for line in wrapped(text, style, room, most)]


def text_height(lines: Iterable[tuple[str, str]]) -> float:
    """Pixels that lines below each other take."""
    return sum(FONTS[style].line for style, _ in lines)


def _pieces(text: str, fits: int, separators: Sequence[str] = _SEPARATORS) -> list[str]:
    """A text in pieces that fit, each as long as the best separators leave it."""
    if cells(text.rstrip()) <= fits:
        return [text]
    if separators:
        parts = re.split(separators[0], text)
        return [piece for part in parts if part for piece in _pieces(part, fits, separators[1:])]
    half = len(text) // 2
    return [*_pieces(text[:half], fits, ()), *_pieces(text[half:], fits, ())]


def fitted(text: str, fits: int) -> str:
    """A text cut to so many cells, with an ellipsis.

    Example:
        >>> fitted("backbone.layer4", 10)
        'backbone.…'
    """
    if cells(text) <= fits:
        return text
    while cells(text) > fits - 1:
        text = text[:-1]
    return text + "…"


@dataclass(frozen=True)
class Block:
    """Lines of text, each in its font, in a rectangle."""

    lines: tuple[tuple[str, str], ...]
    """Font and text."""
    kind: str = "aa-box"
    full: str = ""
    """What a pointer that rests on it is told."""

    @property
    def width(self) -> float:
        """Of the rectangle, in pixels."""
        return max(text_width(text.rstrip(), style) for style, text in self.lines) + 2 * PADDING

    @property
    def height(self) -> float:
        """Of the rectangle, in pixels."""
        return round(text_height(self.lines) + 1.5 * PADDING, 1)

    def draw(self, left: float, top: float, width: float | None = None) -> Group:
        """The rectangle and its lines, at a place; wider than its text if that is asked for."""
        lines = draw_text(self.lines, left + PADDING, top + 0.75 * PADDING)
        return Group([Rect(left, top, width or self.width, self.height), *lines], self.kind, self.full)


def draw_text(lines: Sequence[tuple[str, str]], left: float, top: float) -> list[Text]:
    """Lines of text below each other, each with its font."""
    drawn = []
    for style, text in lines:
        drawn.append(Text(text.rstrip(), left, top + FONTS[style].line * 0.77, f"aa-{style}"))
        top += FONTS[style].line
    return drawn
