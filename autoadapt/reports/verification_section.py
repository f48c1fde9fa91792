"""Verifications as tables: every check, how it ended, and what it found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from autoadapt.adapting.verification import Check, Verification
from autoadapt.showing import Badge, Column, Facts, Faults, Folded, Part, Section, Table, Tone, section_of

_MARKS = {"passed": "✓ passed", "failed": "✗ failed", "not applicable": "not applicable", "not run": "not run"}
_SHOWN = 3
_TONES: dict[str, Tone] = {"passed": "good", "failed": "bad"}


@section_of.register
def verification_section(report: Verification) -> Section:
    """A row for each check; what a failed one found stands below."""
    verdict = Badge("keeps its signature", "good") if report else Badge("DOES NOT keep its signature", "bad")
    parts = (*check_parts(report.checks), Facts((("total", report.total()),)))
    return Section("Verification", report.name, parts, verdict)


def check_parts(checks: Sequence[Check]) -> tuple[Part, ...]:
    """Checks as a table, and the faults of those that failed."""
    rows = tuple((one.name, Badge(_MARKS[one.outcome], _TONES.get(one.outcome, "quiet")), one.detail) for one in checks)
    table = Table((Column("check"), Column("outcome"), Column("detail")), rows)
    return (table, *(part for check in checks for part in _faults(check)))


def _faults(check: Check) -> Iterator[Part]:
    """The first faults of a check, the others folded."""
    made = tuple(replace(fault, where=f"{check.name}: {fault.where}") for fault in check.faults)
    if made:
        yield Faults(made[:_SHOWN])
    if made[_SHOWN:]:
        yield Folded(f"{len(made) - _SHOWN} more faults of {check.name}", (Faults(made[_SHOWN:]),))
