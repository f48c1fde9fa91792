"""Signatures as tables: what goes in, what comes out, and at which sizes."""

from __future__ import annotations

from autoadapt.contracts.signature import Signature, TensorSpec, Values, describe
from autoadapt.showing import Badge, Cell, Column, Facts, Name, Part, Section, Table, section_of


@section_of.register
def signature_section(signature: Signature) -> Section:
    """Inputs, outputs, legal sizes, and what always holds."""
    parts: list[Part] = [_table("inputs", signature.inputs)] if signature.inputs.leaves else []
    parts.append(_table(f"outputs: {describe(signature.outputs.tree)}", signature.outputs))
    parts += [_axes(signature)] if signature.axes else []
    notes = _notes(signature)
    parts += [Facts(tuple(notes))] if notes else []
    count = len(signature.outputs.leaves)
    return Section("Signature", signature.title, tuple(parts), Badge(f"{count} output{'s' if count != 1 else ''}"))


def _table(title: str, values: Values) -> Table:
    rows = tuple(_row(path, spec) for path, spec in values.items())
    return Table((Column("path"), Column("is"), Column("role"), Column("same as")), rows, title)


def _row(path: str, spec: TensorSpec) -> tuple[Cell, ...]:
    dims = f"{spec.dtype}[{', '.join(map(str, spec.dims))}]"
    return Name(path, strong=True), Name(dims), spec.role, Name(spec.same_as) if spec.same_as else ""


def _axes(signature: Signature) -> Table:
    columns = (
        Column("axis"),
        Column("legal sizes"),
        Column("smallest seen", right=True),
        Column("probed at", right=True),
    )
    rows = tuple(
        (Name(name, strong=True), str(sizes), str(sizes.smallest), str(sizes.example))
        for name, sizes in signature.axes.items()
    )
    return Table(columns, rows, "input axes")


def _notes(signature: Signature) -> list[tuple[str, Cell]]:
    notes: list[tuple[str, Cell]] = [("fills in", Name(f"{path}, and returns it")) for path in signature.filled]
    notes += [("always", Name(str(invariant))) for invariant in signature.invariants]
    notes += [("unverified", Name(path)) for path in signature.unverified]
    return notes
