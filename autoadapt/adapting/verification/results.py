"""Reports: the outcomes of all checks of a module, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

from pydantic import Field

from autoadapt.contracts.facts import Dated, MadeByHand
from autoadapt.errors import Mismatch, VerificationError
from autoadapt.showing import Shown
from autoadapt.showing.tables import columns

Outcome: TypeAlias = Literal["passed", "failed", "not applicable", "not run"]


class Check(MadeByHand):
    """One row of the report: a check, its outcome, and the faults that it found."""

    name: str
    outcome: Outcome
    detail: str = ""
    """What was checked, or why it was not."""
    faults: tuple[Mismatch, ...] = ()
    blamed: tuple[str, ...] = Field(default=(), exclude_if=lambda blamed: not blamed)
    """Faults that the bare backbone has as well, which are therefore not counted as the module's."""


class Verification(Shown, Dated, MadeByHand):
    """The report on one module. It passed when no check failed and at least one passed."""

    made_by = "verify(net, signature, inputs=inputs)"

    schema_version: Literal[1] = 1
    name: str
    checks: tuple[Check, ...]
    seconds: float = 0.0
    """How long all checks took."""

    @property
    def passed(self) -> bool:
        """Whether no check failed and at least one passed."""
        outcomes = [check.outcome for check in self.checks]
        return "failed" not in outcomes and "passed" in outcomes

    def __bool__(self) -> bool:
        return self.passed

    def __getitem__(self, name: str) -> Check:
        return {check.name: check for check in self.checks}[name]

    def raise_if_failed(self) -> None:
        """Raise an error that lists every fault.

        Raises:
            VerificationError: A check failed.
        """
        failed = [check for check in self.checks if check.outcome == "failed"]
        if failed:
            faults = [
                replace(fault, where=f"{check.name}: {fault.where}") for check in failed for fault in check.faults
            ]
            raise VerificationError(f"{self.name} does not keep its signature", faults)

    def __str__(self) -> str:
        lines = [f"{self.name}: {'keeps its signature' if self.passed else 'DOES NOT keep its signature'}"]
        lines += columns([(check.name, check.outcome, check.detail) for check in self.checks])
        for check in self.checks:
            for fault in check.faults[:3]:
                lines.append(f"   {check.name}: {fault.where}: expected {fault.expected}, found {fault.found}")
        return "\n".join([*lines, f" {self.total()}"])

    def total(self) -> str:
        """The number of checks with each outcome, and how long they took.

        Example:
            >>> checks = [Check(name="sizes", outcome="passed"), Check(name="export", outcome="not run")]
            >>> Verification(name="net", checks=(*checks, Check(name="compile", outcome="not run"))).total()
            '1 passed, 2 not run, 0.0 s'
        """
        counts = Counter(check.outcome for check in self.checks)
        left = {check.detail for check in self.checks if check.outcome == "not run"}
        notes = {"not run": f" ({left.pop()})"} if len(left) == 1 and "thorough" in "".join(left) else {}
        if but_for := sum(bool(check.blamed) for check in self.checks):
            notes["passed"] = f", {but_for} of them but for the backbone"
        shown = [f"{counts[one]} {one}{notes.get(one, '')}" for one in get_args(Outcome) if counts[one]]
        return ", ".join([*shown, f"{self.seconds:.1f} s"])

    def gist(self) -> str:
        """The verdict in a few words."""
        verdict = "keeps its signature" if self.passed else "DOES NOT keep its signature"
        return f"{self.name}: {verdict}, {self.total()}"


def failed(name: str, faults: Sequence[Mismatch]) -> Check:
    """The row of a check that found faults."""
    detail = f"{len(faults)} faults" if len(faults) > 1 else ""
    return Check(name=name, outcome="failed", detail=detail, faults=tuple(faults))
