"""Results: what a swap did, or would do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification import Check
from autoadapt.contracts.facts import Dated, MadeByHand
from autoadapt.contracts.signature import Gathering
from autoadapt.errors import Mismatch, SwapError
from autoadapt.showing import Shown
from autoadapt.showing.tables import columns, human_count
from autoadapt.swapping.cost_lines import CostLine, cost_text
from autoadapt.swapping.folding.foldings import Folding


class Part(MadeByHand):
    """One place: what stood there, what stands there now, and how it was made to fit."""

    path: str
    also_at: tuple[str, ...] = ()
    """Other paths of the same module; all of them are replaced."""
    old: str
    new: str
    plan: Plan | None = None
    """How a module was adapted; None where a generated layer fits as it is."""
    calls: int = 1
    """How often the module is called in one run of the whole."""
    read: tuple[str, ...] = ()
    """Outputs that the rest of the model reads; these are served."""
    free: tuple[str, ...] = ()
    """Outputs that nothing reads and that are served all the same, since they take no layer."""
    left_out: tuple[str, ...] = ()
    """Outputs that nothing reads and that are not served."""
    says: tuple[str, ...] = ()
    """Attributes and methods that the rest of the model reads off the module."""
    invariants: tuple[Gathering, ...] = ()
    parameters_before: int
    parameters_after: int
    generated: int
    """Parameters of generated layers, among those after."""
    remarks: tuple[str, ...] = ()
    rebuilt: Folding | None = None
    """Which layers of the model read the new channels themselves, with `refit`."""

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The part as rows of text."""
        cost = f"{human_count(self.parameters_before)} -> {human_count(self.parameters_after)} parameters"
        where = ", ".join((self.path, *self.also_at))
        rows = [("reads", ", ".join(self.read)), ("free", ", ".join(self.free)), ("left out", ", ".join(self.left_out))]
        rows += [("says", ", ".join(self.says)), *(("always", str(invariant)) for invariant in self.invariants)]
        rows += [("remark", remark) for remark in self.remarks]
        lines = [f"{where}: {self.old} -> {self.new}"]
        rows.insert(0, ("cost", f"{cost}, {human_count(self.generated)} of them generated"))
        lines += columns([row for row in rows if row[1]])
        lines += [f" {line}" for line in str(self.rebuilt).splitlines()] if self.rebuilt is not None else []
        return lines + ([f" {line}" for line in str(self.plan).splitlines()] if self.plan is not None else [])


class Swap(Shown, Dated, MadeByHand):
    """A swap: its parts, what was checked, and the call that does it."""

    made_by = "swap(model, path, new, inputs=inputs, dry_run=True)"

    schema_version: Literal[1] = 1
    model: str
    parts: tuple[Part, ...] = ()
    checks: tuple[Check, ...] = ()
    costs: tuple[CostLine, ...] = ()
    """Of dry runs and refits: the old model, the adapted one, and without adapters."""
    refused: str = ""
    """Why it is refused, in a line; empty where it is not."""
    faults: tuple[Mismatch, ...] = ()
    call: str
    """The call that does it, to paste."""

    @property
    def passed(self) -> bool:
        """Whether the swap can be done."""
        return not self.refused

    @property
    def parameters_before(self) -> int:
        """Parameters of all the modules that are replaced."""
        return sum(part.parameters_before for part in self.parts)

    @property
    def parameters_after(self) -> int:
        """Parameters of all the modules that take their places."""
        return sum(part.parameters_after for part in self.parts)

    def __bool__(self) -> bool:
        return self.passed

    def raise_if_failed(self) -> None:
        """Raise with every fault.

        Raises:
            SwapError: The swap is refused.
        """
        if self.refused:
            raise SwapError(self.refused, self.faults)

    def __str__(self) -> str:
        verdict = f"refused: {self.refused}" if self.refused else "fits"
        lines = [f"{self.model}: {verdict}"]
        if len(self.parts) > 1 and all(part.plan is None for part in self.parts):
            lines += ["", *_table(self.parts)]
        else:
            lines += [line for part in self.parts for line in ("", *part.lines())]
        if len(self.parts) > 1:
            sums = f"{human_count(self.parameters_before)} -> {human_count(self.parameters_after)} parameters"
            lines += ["", f"{len(self.parts)} places, {sums}"]
        lines += ["", *cost_text(self.costs)] if self.costs else []
        lines += ["", *columns([(check.name, check.outcome, check.detail) for check in self.checks])]
        for fault in self.faults:
            lines += str(fault).splitlines()
        return "\n".join([*lines, f" call  {self.call}"])


def _table(parts: Sequence[Part]) -> list[str]:
    """Generated layers at several places, a row each."""
    rows = [("place", "old", "new", "parameters", "", "remark")]
    rows += [
        (
            ", ".join((part.path, *part.also_at)),
            part.old,
            part.new,
            human_count(part.parameters_before),
            f"-> {human_count(part.parameters_after)}",
            "; ".join(part.remarks),
        )
        for part in parts
    ]
    return columns(rows, align="lllrrl")
