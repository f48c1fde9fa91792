"""Results: what was found of each candidate, as frozen values and as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from autoadapt.contracts.facts import Dated, MadeByHand
from autoadapt.errors import Mismatch, RankingError
from autoadapt.ranking.pictures import draw
from autoadapt.showing import Dot, Shown
from autoadapt.showing.tables import columns, hanging, human_count, page_width, shorten

Costs: TypeAlias = Literal["seconds", "multiply_adds", "parameters", "memory"]
"""What can stand against the agreement."""


class Ranked(MadeByHand):
    """One candidate: what it costs in the old backbone's place, and how well it serves, or why it does not fit."""

    source: str
    """Its name."""
    refused: str = ""
    """Why it is not ranked, in a line; empty where it is."""
    remedy: str = ""
    """What to do about that."""
    parameters: int = 0
    """Of the backbone alone, as far as it runs."""
    kept: float | None = None
    """Share of its parameters that serve the outputs, without what follows its last block."""
    adapter_parameters: int = 0
    multiply_adds: int = 0
    """Of one pass, adapters included."""
    seconds: float = 0.0
    """Median time of one pass."""
    weight_bytes: int = 0
    peak_bytes: int = 0
    """Peak memory of a pass beside weights and inputs."""
    agreement: float | None = None
    """Share of places where the head's likeliest class is as with the old backbone, on images not fitted on."""
    divergence: float | None = None
    """Kullback-Leibler divergence of the head's answers from the old ones, nats, on images not fitted on."""
    images: int = 0
    """Those that it was calibrated on; under `halving` fewer, where others were better on these."""
    r2: float | None = None
    """Share of the old features' variance explained on images not fitted on, mean over outputs."""
    fitted: bool = True
    """Whether calibration was of use: it beat random adapters and the mean of the old features."""
    remark: str = ""
    took: float = 0.0
    """Seconds that ranking it took."""

    @property
    def memory(self) -> int:
        """Bytes of weights, and peak memory beside them."""
        return self.weight_bytes + self.peak_bytes

    @property
    def quality(self) -> float | None:
        """Agreement where a head was there, else the variance explained, else None."""
        return self.r2 if self.agreement is None else self.agreement

    @property
    def order(self) -> tuple[float, ...]:
        """What sorts the best first: those that came to the most images, by quality, ties by time."""
        if self.agreement is not None:
            return (0, -self.images, -self.agreement, self.divergence or 0.0, self.seconds)
        return (1, -self.images, -self.r2, self.seconds) if self.r2 is not None else (2, self.seconds)


class Ranking(Shown, Dated, MadeByHand):
    """Candidates for one place. `str()` is a table, best first; `picture()` sets cost against agreement."""

    made_by = "rank(candidates, like=old)"

    schema_version: Literal[1] = 1
    like: str
    """The signature that they should have."""
    inputs: str
    """What a pass was given."""
    images: int = 0
    """Those that were calibrated on."""
    held_out: int = 0
    """Those that the head judged on, none of them calibrated on."""
    threads: int
    rows: tuple[Ranked, ...]
    """In the order of the candidates."""
    remarks: tuple[str, ...] = ()

    @property
    def best_first(self) -> tuple[Ranked, ...]:
        """Those that fit: by agreement, then divergence; without a head by variance explained; without data by time."""
        return tuple(sorted((row for row in self.rows if not row.refused), key=lambda row: row.order))

    @property
    def refused(self) -> tuple[Ranked, ...]:
        """Those that do not fit."""
        return tuple(row for row in self.rows if row.refused)

    @property
    def has_quality(self) -> bool:
        """Whether anything tells how well they serve."""
        return any(row.quality is not None for row in self.rows)

    def front(self, cost: Costs = "seconds") -> tuple[str, ...]:
        """The candidates that no other one beats in one of cost and quality without losing in the other.

        Under `halving` those that came to all images; the others are known less well.

        Args:
            cost: What counts as cost.
        """
        most = max((row.images for row in self.best_first), default=0)
        judged = [row for row in self.best_first if row.quality is not None and row.fitted and row.images == most]
        return front_of(judged, cost)

    def __bool__(self) -> bool:
        return bool(self.best_first)

    def raise_if_failed(self) -> None:
        """Raise with every reason, where no candidate fits.

        Raises:
            RankingError: None fits.
        """
        if not self:
            faults = [Mismatch(row.source, "a backbone that fits", row.refused, row.remedy) for row in self.refused]
            raise RankingError("no candidate fits", faults)

    def picture(self, path: str | Path, *, cost: Costs = "seconds") -> None:
        """Draw cost against agreement; without data, parameters against cost.

        Args:
            path: Where to: the ending says the format, `.svg` or `.png`.
            cost: What the horizontal axis shows.

        Raises:
            RankingError: matplotlib is not installed, or nothing is there to be drawn.
        """
        self.raise_if_failed()
        across, up = self.axes(cost)
        draw(self.points(cost), path, across=across, up=up, title=f"in the place of {self.like}")

    def points(self, cost: Costs = "seconds") -> tuple[Dot, ...]:
        """What a picture shows, best first: those of known quality, or without data all that fit.

        Args:
            cost: What the horizontal axis shows.
        """
        front = self.front(cost)
        rows = [row for row in self.best_first if row.quality is not None] or self.best_first
        ups = [row.parameters / 1e6 if row.quality is None else row.quality for row in rows]
        names = [row.source.rpartition(":")[2] for row in rows]  # without their schemes
        pairs = zip(rows, names, ups, strict=True)
        return tuple(Dot(name, _cost(row, cost), up, row.source in front) for row, name, up in pairs)

    def axes(self, cost: Costs = "seconds") -> tuple[str, str]:
        """What the axes of a picture show, the horizontal one first."""
        if any(row.agreement is not None for row in self.rows):
            up = "held-out agreement with the old backbone's answers"
        elif self.has_quality:
            up = "variance of the old features explained, held out"
        else:
            up = "parameters, millions"
        return _COSTS[cost][0], up

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        lines = [shorten(f"{len(self.best_first)} of {len(self.rows)} candidates fit {self.like}", page_width())]
        lines += [f" {self.inputs}, {threads}", ""] if self.best_first else []
        lines += self._table()
        lines += [line for row in self.refused for line in _refusal(row)]
        notes = [(shorten(row.source, 30), row.remark) for row in self.best_first if row.remark]
        return "\n".join([*lines, *_listed(notes), *_listed([("remark", remark) for remark in self.remarks])])

    def _table(self) -> list[str]:
        rows = self.best_first
        if not rows:
            return []
        shown = [(title, text) for title, text in _COLUMNS if any(text(row) for row in rows)]
        if len({row.images for row in rows}) > 1:
            shown.append(("images", lambda row: str(row.images)))
        marked = self.front()
        cells = [tuple(text(row) for _, text in shown) for row in rows]
        titles = tuple(title for title, _ in shown)
        taken = sum(max(map(len, column)) + 2 for column in zip(titles, *cells, strict=True))
        scheme = _shared_scheme([row.source for row in rows])
        names = [_middle_cut(row.source.removeprefix(scheme), page_width() - taken - 4) for row in rows]
        marks = ["*" if row.source in marked else " " for row in rows]
        table = [(" ", scheme or "candidate", *titles), *zip(marks, names, *zip(*cells, strict=True), strict=True)]
        lines = columns(table, align="ll" + "r" * len(titles))
        if marked:
            lines.append(" * no other is both faster and better")
        return [*lines, *self._legend()]

    def _legend(self) -> list[str]:
        if not self.has_quality:
            return [" sorted by time: without data nothing tells how well they serve"]
        fitted = f"calibrated on {self.images} unlabelled images"
        if any(row.agreement is not None for row in self.rows):
            said = (
                f"agrees, KL: the head's answers beside the old ones on {self.held_out} images not fitted on; {fitted}"
            )
        else:
            said = f"R2: share of the old features' variance explained on images not fitted on; {fitted}"
        return textwrap.wrap(said, page_width(), initial_indent=" ", subsequent_indent="   ")


def front_of(rows: Sequence[Ranked], cost: Costs) -> tuple[str, ...]:
    """Of candidates of a known quality, those that no other beats in one of cost and quality, losing in neither."""
    return tuple(row.source for row in rows if not any(_beats(other, row, cost) for other in rows))


def _beats(other: Ranked, row: Ranked, cost: Costs) -> bool:
    assert other.quality is not None, "only candidates with a quality are compared"
    assert row.quality is not None, "as above"
    here, there = (_cost(row, cost), -row.quality), (_cost(other, cost), -other.quality)
    return there[0] <= here[0] and there[1] <= here[1] and there != here


_COSTS: dict[Costs, tuple[str, Callable[[Ranked], float]]] = {
    "seconds": ("forward pass, ms", lambda row: row.seconds * 1000),
    "multiply_adds": ("multiply-adds, G", lambda row: row.multiply_adds / 1e9),
    "parameters": ("parameters with adapters, M", lambda row: (row.parameters + row.adapter_parameters) / 1e6),
    "memory": ("weights and activations, MiB", lambda row: row.memory / 2**20),
}


def _cost(row: Ranked, cost: Costs) -> float:
    return _COSTS[cost][1](row)


_COLUMNS: tuple[tuple[str, Callable[[Ranked], str]], ...] = (
    ("params", lambda row: human_count(row.parameters)),
    ("kept", lambda row: "" if row.kept is None else f"{100 * row.kept:.0f} %"),
    ("adapters", lambda row: human_count(row.adapter_parameters)),
    ("MACs", lambda row: human_count(row.multiply_adds)),
    ("ms", lambda row: _figure(row.seconds * 1000)),
    ("MiB", lambda row: _figure(row.memory / 2**20)),
    ("agrees", lambda row: "" if row.agreement is None else f"{row.agreement:.2f}"),
    ("KL", lambda row: "" if row.divergence is None else f"{row.divergence:.2f}"),
    ("R2", lambda row: "" if row.r2 is None or row.agreement is not None else f"{row.r2:.2f}"),
)


def _shared_scheme(names: Sequence[str]) -> str:
    """What all names begin with, as far as the first colon; empty where they differ."""
    schemes = {name.partition(":")[0] for name in names if ":" in name}
    return f"{schemes.pop()}:" if len(schemes) == 1 and all(":" in name for name in names) else ""


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def _middle_cut(name: str, width: int) -> str:
    """A name cut in the middle to a width, since beginning and end tell models apart."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return name[:head] + "…" + name[len(name) - (width - 1 - head) :]


def _refusal(row: Ranked) -> list[str]:
    said = textwrap.wrap(row.refused, page_width() - 5, max_lines=2, placeholder=" …")
    lines = ["", f" not ranked: {_middle_cut(row.source, page_width() - 13)}", *(f"   {line}" for line in said)]
    return [*lines, *(f"   try  {line}" for line in row.remedy.splitlines()[:1])]


def _listed(rows: Iterable[tuple[str, str]]) -> list[str]:
    lines = [line for label, text in rows for line in hanging(label, text)]
    return ["", *lines] if lines else []
