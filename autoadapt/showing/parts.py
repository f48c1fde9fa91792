"""Parts: what a result has to show, as data that a page, a terminal and a picture are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from autoadapt.errors import Mismatch

Tone: TypeAlias = Literal["good", "bad", "quiet"]


@dataclass(frozen=True)
class Name:
    """What a program calls something: a path, a spec, a call. Set in fixed width."""

    text: str
    strong: bool = False
    short: str = ""
    """The same where there are eighty columns of text."""


@dataclass(frozen=True)
class Badge:
    """How something ended, in a word or two."""

    text: str
    tone: Tone = "quiet"


@dataclass(frozen=True)
class Share:
    """A part of a whole, from 0 to 1, and how it is written."""

    value: float
    text: str


@dataclass(frozen=True)
class Step:
    """One operation of a chain."""

    kind: str
    """The operation, as in a plan; it decides the colour."""
    text: str
    """The operation in a line."""
    label: str
    """What beside the kind there is to say."""
    says: str = ""
    """What operations of the kind do."""
    note: str = ""
    """What it costs."""
    gives: str = ""
    """The dims after it."""


@dataclass(frozen=True)
class Steps:
    """A chain of operations; without any, things stay as they are."""

    steps: tuple[Step, ...]


Cell: TypeAlias = str | Name | Badge | Share | Steps


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    title: str
    right: bool = False
    """Whether it holds numbers, which end at the right."""
    brief: bool = True
    """Whether it is also shown where there are eighty columns of text."""


@dataclass(frozen=True)
class Table:
    """Rows of cells."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""

    def trimmed(self, *, brief: bool = False) -> Table:
        """The table without columns that are empty, or that there is no room for."""
        keep = [
            i
            for i, column in enumerate(self.columns)
            if (column.brief or not brief) and any(row[i] != "" for row in self.rows)
        ]
        rows = tuple(tuple(row[i] for i in keep) for row in self.rows)
        return Table(tuple(self.columns[i] for i in keep), rows, self.title)


@dataclass(frozen=True)
class Facts:
    """Labels, and what is to be said under each."""

    rows: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Faults:
    """What is not as it should be."""

    faults: tuple[Mismatch, ...]


@dataclass(frozen=True)
class Folded:
    """What is long and seldom read: a page shows its title and opens it on demand."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Code:
    """Lines of code or of text that is laid out already."""

    text: str


@dataclass(frozen=True)
class Box:
    """One tensor in a diagram."""

    name: str
    spec: str


@dataclass(frozen=True)
class Lane:
    """The way from a source to a target."""

    source: int
    """Which of the diagram's inputs and sources, counted through."""
    steps: tuple[Step, ...]
    target: Box
    remark: str = ""


@dataclass(frozen=True)
class Diagram:
    """What a module offers, what is asked of it, and the ways between."""

    title: str
    """In a sentence, for who cannot see it."""
    source: str
    """What offers."""
    target: tuple[str, str]
    """What asks, and for how much."""
    inputs: tuple[tuple[Box, tuple[Step, ...]], ...]
    """What is given, and what is done to it."""
    sources: tuple[Box, ...]
    lanes: tuple[Lane, ...]
    notes: tuple[str, ...] = ()
    """Beside the title of the ways, such as what they cost."""
    unused: tuple[str, str] = ("", "")
    """A title, and what of the module is not needed."""


@dataclass(frozen=True)
class Dot:
    """One point of a scatter."""

    name: str
    across: float
    up: float
    marked: bool
    """Whether it is among the best."""


@dataclass(frozen=True)
class Scatter:
    """Points between two axes, the one across logarithmic; a table beside it says the same."""

    title: str
    """In a sentence, for who cannot see it."""
    across: str
    up: str
    dots: tuple[Dot, ...]
    """The one whose name is placed first comes first."""


@dataclass(frozen=True)
class Section:
    """Everything about one result, or about a part of one."""

    kind: str
    """What kind of result it is."""
    title: str
    parts: tuple[Part, ...]
    verdict: Badge | None = None


Part: TypeAlias = Table | Facts | Faults | Folded | Code | Diagram | Scatter | Section
