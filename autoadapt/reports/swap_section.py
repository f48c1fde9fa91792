"""Swaps as sections: each place with its plan, what was checked, and the call that does it."""

from __future__ import annotations

from autoadapt.reports.plan_section import plan_section
from autoadapt.reports.verification_section import check_parts
from autoadapt.showing import Badge, Cell, Code, Column, Facts, Faults, Name, Part as Shown, Section, Table, section_of
from autoadapt.showing.tables import human_count
from autoadapt.swapping import Swap
from autoadapt.swapping.cost_lines import cost_rows
from autoadapt.swapping.results import Part


@section_of.register
def swap_section(swap: Swap) -> Section:
    """The verdict, the call, a table of places, and a plan for each that has one."""
    parts: list[Shown] = [Facts((("refused", swap.refused),))] if swap.refused else []
    parts += [Faults(swap.faults)] if swap.faults else []
    parts += [_table(swap.parts)] if swap.parts else []
    parts += [
        Section("at", part.path, (Facts(tuple(_rows(part))), *_plan(part)))
        for part in swap.parts
        if part.plan is not None or _rows(part)
    ]
    parts += [_costs(swap)] if swap.costs else []
    parts += check_parts(swap.checks) if swap.checks else ()
    parts.append(Code(swap.call))
    return Section("Swap", swap.model, tuple(parts), Badge("refused", "bad") if swap.refused else Badge("fits", "good"))


def _table(parts: tuple[Part, ...]) -> Table:
    columns = (
        Column("place"),
        Column("old"),
        Column("new"),
        Column("old params", right=True),
        Column("new params", right=True),
        Column("generated", right=True, brief=False),
    )
    rows = tuple(
        (
            Name(", ".join((part.path, *part.also_at)), strong=True),
            Name(part.old),
            Name(part.new),
            human_count(part.parameters_before),
            human_count(part.parameters_after),
            human_count(part.generated),
        )
        for part in parts
    )
    return Table(columns, rows)


def _costs(swap: Swap) -> Section:
    """A row for each state of the model: parameters and multiply-adds of each part of it."""
    named = (
        "state",
        *(f"{part} {unit}" for part in ("adapters", "consumer", "whole") for unit in ("params", "mult-adds")),
    )
    columns = tuple(Column(name, right=number > 0) for number, name in enumerate(named))
    return Section("Cost of one sample", "", (Table(columns, tuple(map(tuple, cost_rows(swap.costs)[2:]))),))


def _rows(part: Part) -> list[tuple[str, Cell]]:
    named = (("reads", part.read), ("free", part.free), ("left out", part.left_out), ("says", part.says))
    rows: list[tuple[str, Cell]] = [(label, Name(", ".join(names))) for label, names in named if names]
    rows += [("calls", f"{part.calls} in one run")] if part.calls > 1 else []
    rows += [("rebuilt", Name(line.strip())) for line in str(part.rebuilt).splitlines()] if part.rebuilt else []
    rows += [("always", Name(str(invariant))) for invariant in part.invariants]
    return rows + [("remark", remark) for remark in part.remarks]


def _plan(part: Part) -> tuple[Section, ...]:
    return (plan_section(part.plan),) if part.plan is not None else ()
