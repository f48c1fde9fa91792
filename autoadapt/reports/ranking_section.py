"""Rankings as tables: candidates best first, and why others are not ranked."""

from __future__ import annotations

from autoadapt.errors import Mismatch
from autoadapt.ranking import Ranked, Ranking
from autoadapt.showing import Badge, Cell, Column, Facts, Faults, Name, Part, Scatter, Section, Table, section_of
from autoadapt.showing.tables import human_count


@section_of.register
def ranking_section(made: Ranking) -> Section:
    """A row for each candidate that fits, those on the front marked; then those that do not, with the reasons."""
    verdict = Badge(f"{len(made.best_first)} of {len(made.rows)} fit", "good" if made else "bad")
    parts: list[Part] = [_scatter(made), _table(made)] if made else []
    faults = tuple(Mismatch(row.source, "", row.refused, row.remedy) for row in made.refused)
    parts += [_facts(made), *([Faults(faults)] if faults else [])]
    return Section("Ranking", f"in the place of {made.like}", tuple(parts), verdict)


def _scatter(made: Ranking) -> Scatter:
    across, up = made.axes()
    title = f"{up} against {across}, in the place of {made.like}; the table below has the numbers"
    return Scatter(title, across, up, made.points())


def _table(made: Ranking) -> Table:
    titles = ("params", "kept", "adapters", "MACs", "ms", "MiB", "agrees", "KL", "R2")
    columns = (Column(""), Column("candidate"), *(Column(title, right=True) for title in titles))
    front = made.front()
    rows = tuple((Badge("*", "good") if row.source in front else "", *_cells(row)) for row in made.best_first)
    return Table(columns, rows)


def _cells(row: Ranked) -> tuple[Cell, ...]:
    judged = ("" if value is None else f"{value:.2f}" for value in (row.agreement, row.divergence))
    return (
        Name(row.source, strong=True),
        human_count(row.parameters),
        "" if row.kept is None else f"{100 * row.kept:.0f} %",
        human_count(row.adapter_parameters),
        human_count(row.multiply_adds),
        f"{row.seconds * 1000:.1f}",
        f"{row.memory / 2**20:.1f}",
        *judged,
        "" if row.r2 is None else f"{row.r2:.2f}",
    )


def _facts(made: Ranking) -> Facts:
    threads = f"{made.threads} thread{'s' if made.threads != 1 else ''}"
    rows: list[tuple[str, Cell]] = [("measured", f"{made.inputs}, {threads}; MiB of weights and peak activations")]
    if made.has_quality:
        judged = f", judged on {made.held_out} that were not fitted on" if made.held_out else ""
        rows.append(("images", f"{made.images} unlabelled ones to calibrate on{judged}"))
        rows.append(("*", "no other is both faster and better"))
    else:
        rows.append(("sorted", "by time: without data nothing tells how well they serve"))
    rows += [(row.source, row.remark) for row in made.best_first if row.remark]
    return Facts((*rows, *(("remark", remark) for remark in made.remarks)))
