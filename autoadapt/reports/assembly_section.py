"""Assemblies as tables: the parts of a model with what they are given, and backbones side by side."""

from __future__ import annotations

from autoadapt.assembly import Assembly, Comparison, Config, write_yaml
from autoadapt.assembly.comparisons import FIGURES
from autoadapt.assembly.results import PartReport
from autoadapt.reports.plan_section import plan_section
from autoadapt.showing import Cell, Code, Column, Facts, Name, Section, Table, section_of
from autoadapt.showing.tables import human_count


@section_of.register
def assembly_section(made: Assembly) -> Section:
    """A row for each tensor that a part is given, then the adapters between."""
    size = " x ".join(str(size) for name, size in made.sizes.items() if name != "B")
    columns = (
        Column("part"),
        Column("type"),
        Column("is given"),
        Column(f"cells at {size}", right=True),
        Column("params", right=True),
    )
    table = Table(columns, tuple(row for part in made.parts for row in _rows(part)))
    plans = (
        Section("adapter behind", name, plan_section(plan).parts, plan_section(plan).verdict)
        for name, plan in made.plans.items()
    )
    remarks = (Facts(tuple(("remark", remark) for remark in made.remarks)),) if made.remarks else ()
    return Section("Assembly", " · ".join(part.type for part in made.parts), (table, *plans, *remarks))


def _rows(part: PartReport) -> list[tuple[Cell, ...]]:
    head: tuple[Cell, ...] = (Name(part.name, strong=True), Name(part.type))
    rows: list[tuple[Cell, ...]] = []
    for given in part.given:
        said = (Name(f"{given.source} {given.spec}"), given.cells)
        rows.append((*(("", "") if rows else head), *said, "" if rows else human_count(part.parameters)))
    return rows or [(*head, "", "", human_count(part.parameters))]


@section_of.register
def config_section(config: Config) -> Section:
    """The config as it is written in a file, with every number filled in where it was resolved."""
    return Section("Config", " · ".join(part.type for part in config.backbone), (Code(write_yaml(config)),))


@section_of.register
def comparison_section(made: Comparison) -> Section:
    """What each backbone costs, what changes with it, and why one does not fit."""
    columns = (Column("backbone"), *(Column(title, right=True) for title in FIGURES))
    facts = Facts((("measured", made.legend), *(("changed", Name("  ".join(change))) for change in made.changes)))
    unfit = (Section("does not fit", row.backbone, (Code(row.fault),)) for row in made.rows if row.fault)
    table = Table(columns, tuple((Name(row.backbone, strong=True), *row.figures) for row in made.rows))
    return Section("Comparison", f"{len(made.rows)} backbones", (table, facts, *unfit))
