"""Terminal: sections as rich tables; what users name things is never read as markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from typing_extensions import assert_never

from autoadapt.errors.printable import visible
from autoadapt.showing.colours import COLOURS
from autoadapt.showing.parts import (
    Badge,
    Cell,
    Code,
    Diagram,
    Facts,
    Faults,
    Folded,
    Name,
    Part,
    Scatter,
    Section,
    Share,
    Steps,
    Table,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
    from rich.measure import Measurement
    from rich.table import Table as RichTable
    from rich.text import Text

_TONES = {"good": "green", "bad": "bold red", "quiet": "dim"}
_FIRM = 0.6
"""Share of the width for columns that are not broken; what is long gives way to what is short."""


def rendered(section: Section, width: int) -> Iterator[RenderableType]:
    """A section as rich prints it.

    Args:
        section: What it holds; pictures are left out, since the tables say the same.
        width: Columns of text that there are.
    """
    from rich.text import Text

    yield _heading(section)
    for i, part in enumerate(part for part in section.parts if not isinstance(part, Diagram | Scatter)):
        yield from [Text("")] if i or isinstance(part, Table) else []
        yield from _part(part, width)


def _heading(section: Section) -> RichTable:
    from rich.table import Table as RichTable
    from rich.text import Text

    title = Text(f"{section.kind}  ".lstrip(), style="dim")
    title.append(visible(section.title), style="not dim bold")
    grid = RichTable.grid(padding=(0, 3, 0, 0), pad_edge=False)
    grid.add_column(overflow="fold")
    grid.add_column(no_wrap=True)
    grid.add_row(title, _cell(section.verdict) if section.verdict else "")
    return grid


def _part(part: Part, width: int) -> Iterator[RenderableType]:
    from rich.text import Text

    match part:
        case Section():
            yield from rendered(part, width)
        case Table():
            yield _table(part.trimmed(brief=True), width)
        case Facts(rows=rows):
            yield _facts([(label, _cell(said)) for label, said in rows])
        case Faults(faults=faults):
            for fault in faults:
                yield Text(visible(str(fault)), style=_TONES["bad"])
        case Folded(title=title):
            yield Text(f" {visible(title)}", style="dim")
        case Code(text=text):
            yield Text(visible(text))
        case Diagram() | Scatter():
            return
        case _:
            assert_never(part)


def _facts(rows: list[tuple[str, RenderableType]]) -> RichTable:
    from rich.table import Table as RichTable

    grid = RichTable.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, said in rows:
        grid.add_row(" " + label, said)
    return grid


def _table(table: Table, width: int) -> RichTable:
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=None, padding=(0, 1), pad_edge=True, header_style="dim", title_style="bold")
    if table.title:
        made.title, made.title_justify = Text(table.title), "left"
    rows = [[_cell(content) for content in row] for row in table.rows]
    room = width * _FIRM
    for i, column in enumerate(table.columns):
        texts = [row[i] for row in rows]
        widest = max((text.cell_len for text in texts if isinstance(text, Text)), default=width)
        firm = column.right or (widest <= room and all(isinstance(text, Text) for text in texts))
        room -= widest if firm and not column.right else 0
        justify: JustifyMethod = "right" if column.right else "left"
        made.add_column(column.title, justify=justify, no_wrap=firm, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


class _Chain:
    """Steps in lines of the width that there is, none of them broken."""

    def __init__(self, steps: Sequence[Text]) -> None:
        self._steps = steps

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        line = Text("")
        for step in self._steps:
            if line and line.cell_len + 3 + step.cell_len > options.max_width:
                yield line
                line = Text("· ", style="dim")
            elif line:
                line.append(" · ", style="dim")
            line.append_text(step)
        yield line

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        widths = [step.cell_len for step in self._steps]
        least = max(widths[0], *(width + 2 for width in widths[1:]), 0)
        return Measurement(least, sum(widths) + 3 * (len(widths) - 1))


def _cell(content: Cell) -> RenderableType:
    from rich.text import Text

    match content:
        case str():
            return Text(visible(content))
        case Name(text=text, strong=strong, short=short):
            return Text(visible(short or text), style="bold" if strong else "")
        case Badge(text=text, tone=tone):
            return Text(visible(text), style=_TONES[tone])
        case Share(text=text):
            return Text(visible(text))
        case Steps(steps=()):
            return Text("as it is", style="dim")
        case Steps(steps=steps):
            return _Chain([Text(visible(step.text), style=COLOURS.get(step.kind, "")) for step in steps])
        case _:
            assert_never(content)
