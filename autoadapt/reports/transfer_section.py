"""Transfers as tables: what was loaded, module by module, and every tensor that was not."""

from __future__ import annotations

from autoadapt.showing import Badge, Cell, Column, Facts, Name, Part, Section, Share, Table, section_of
from autoadapt.weights import Transfer
from autoadapt.weights.summary import coverage, module_groups, name_stages, notes, on_one_side, percent, shape_groups


@section_of.register
def transfer_section(made: Transfer) -> Section:
    """Modules with the share of each that came, shapes that differ, names that only one side has."""
    verb = "would load" if made.dry_run else "loaded"
    verdict = Badge(f"{verb} {percent(made.share)} of parameters", "good" if made.ok else "bad")
    title = f"{made.source} ({len(made.sources)} tensors) → {made.model} ({len(made.targets)})"
    parts: list[Part] = [_modules(made), *_shapes(made, "converted"), *_shapes(made, "mismatched"), _facts(made)]
    return Section("Transfer", title, tuple(parts), verdict)


def _modules(made: Transfer) -> Table:
    columns = (Column("module"), Column("tensors", right=True), Column("parameters"), Column("left"))
    rows = tuple(
        (
            Name(label, strong=True),
            f"{sum(e.bucket == 'loaded' for e in group)}/{len(group)}",
            Share(coverage(group), percent(coverage(group))),
            notes(group),
        )
        for label, group in module_groups(made.targets)
    )
    return Table(columns, rows)


def _shapes(made: Transfer, bucket: str) -> list[Table]:
    entries = [entry for entry in made.sources if entry.bucket == bucket]
    groups = shape_groups(entries, {entry.name: entry.shape for entry in made.targets})
    columns = (Column("tensors"), Column("shape"), Column("how" if bucket == "converted" else "why"))
    rows = tuple((Name(", ".join(names), strong=True), Name(change), how) for (change, how), names in groups.items())
    return [Table(columns, rows, f"{bucket}: {len(entries)}")] if rows else []


def _facts(made: Transfer) -> Facts:
    loaded = sum(entry.bucket in ("loaded", "converted") for entry in made.sources)
    compared = "nothing written" if made.dry_run else f"{made.compared} of {loaded} tensors bit-equal after the copy"
    rows: list[tuple[str, Cell]] = [("container", Name(made.container))] if made.container else []
    stages = name_stages(made.sources)
    rows += [("names", stages)] if stages else []
    rows += [("compared", compared)]
    rows += [
        (f"{title} ({count})", Name(", ".join(names)))
        for title, count, names in on_one_side(made.sources, made.targets)
    ]
    rows += [("remark", remark) for remark in made.remarks]
    return Facts((*rows, *((("hint", Name(made.hint)),) if made.hint else ())))
