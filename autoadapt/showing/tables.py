"""Facts as rows of plain text: what every `str()` of a result is made of."""

from __future__ import annotations

import contextlib
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from itertools import zip_longest

from autoadapt.errors.printable import visible

PAGE = 80
"""Columns of a page, where nobody tells the width of a terminal."""
NARROWEST = 12
"""Columns to which a text in a table is narrowed at most."""
_TERMINAL: ContextVar[int] = ContextVar("terminal", default=0)


@contextlib.contextmanager
def fitting(width: int) -> Iterator[None]:
    """In the block, tables fit a terminal of so many columns; elsewhere rows are as long as what they say."""
    token = _TERMINAL.set(width)
    try:
        yield
    finally:
        _TERMINAL.reset(token)


def page_width() -> int:
    """Columns that sentences are set in: eighty, or those of a narrower terminal."""
    return min(_TERMINAL.get() or PAGE, PAGE)


def text_width(text: str) -> int:
    """Terminal cells a text takes: wide characters count two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def columns(rows: Iterable[Sequence[str]], *, align: str = "", indent: int = 1, gap: int = 2) -> list[str]:
    """Lay rows out in aligned columns.

    Args:
        rows: Cells as text; rows may differ in length.
        align: One letter a column, `l` (default) or `r`.
        indent: Spaces before the first column.
        gap: Spaces between columns.

    Returns:
        One line a row, without trailing spaces.

    Example:
        >>> for line in columns([("c4", "24.6k"), ("c5", "1.5M")], align="lr"):
        ...     print(line)
         c4  24.6k
         c5   1.5M
    """
    table = [list(map(visible, row)) for row in rows]
    count = max(map(len, table), default=0)
    widths = [max((text_width(row[i]) for row in table if i < len(row)), default=0) for i in range(count)]
    letters = align.ljust(count, "l")
    excess = indent + sum(widths) + gap * (count - 1) - _TERMINAL.get()
    if _TERMINAL.get() and excess > 0:
        table = _narrowed(table, widths, letters, excess)

    def pad(cell: str, column: int) -> str:
        space = " " * (widths[column] - text_width(cell))
        return space + cell if letters[column] == "r" else cell + space

    return [(" " * indent + (" " * gap).join(pad(cell, i) for i, cell in enumerate(row))).rstrip() for row in table]


def _narrowed(table: list[list[str]], widths: list[int], letters: str, excess: int) -> list[list[str]]:
    """Rows whose longest texts go on in rows below, so that a table is less wide; the widths become the new ones."""
    for column in sorted((i for i, letter in enumerate(letters) if letter == "l"), key=lambda i: -widths[i]):
        cut = max(min(excess, widths[column] - NARROWEST), 0)
        widths[column] -= cut
        excess -= cut
    rows = []
    for row in table:
        cells = [
            textwrap.wrap(cell, widths[i], break_on_hyphens=False) if len(cell) > widths[i] else [cell]
            for i, cell in enumerate(row)
        ]
        rows += [list(line) for line in zip_longest(*cells, fillvalue="")] or [row]
    return rows


def paragraph(text: str, first: str, later: str) -> list[str]:
    """A text in lines of the width of the page, none of its words broken.

    Args:
        text: The words; there may be none.
        first: What the first line begins with.
        later: What the others begin with.
    """
    lines = textwrap.wrap(
        text,
        max(page_width(), len(later) + NARROWEST),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [first]


def hanging(label: str, text: str) -> list[str]:
    """A label and a text beside it, in as many lines as the width of the page asks for.

    Example:
        >>> with fitting(31):
        ...     print(*hanging("remark", "detail is interpolated, not seen"), sep="\\n")
         remark  detail is
                 interpolated, not seen
    """
    indent = " " * (text_width(label) + 3)
    first, *rest = paragraph(text, indent, indent)
    return [f" {label}  {first.lstrip()}".rstrip(), *rest]


def headline(*parts: str) -> list[str]:
    """Parts of a title beside each other, or below each other where the page is too narrow.

    Example:
        >>> with fitting(30):
        ...     headline("resnet18", " ->  contract of FeatureListNet")
        ['resnet18', '  ->  contract of FeatureListNet']
    """
    line = " ".join(parts)
    return [line] if text_width(line) <= page_width() else [parts[0], *(f"  {part.strip()}" for part in parts[1:])]


def human_count(number: float) -> str:
    """A count with three significant digits and a suffix.

    Example:
        >>> [human_count(n) for n in (0, 950, 24_600, 1_500_000, 37_754_880, 2_000_000_000)]
        ['0', '950', '24.6k', '1.50M', '37.8M', '2.00G']
    """
    value = float(number)
    for suffix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5 or suffix == "T":
            break
        value /= 1000
    if not suffix:
        return f"{value:.0f}"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}{suffix}"


def shorten(text: str, width: int) -> str:
    """Cut a text to a width, with an ellipsis where something is left out.

    Example:
        >>> shorten("vit_small_patch16_224", 12)
        'vit_small_p…'
    """
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
