"""Findings: the result of a check that did not raise."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoadapt.errors import Mismatch


@dataclass(frozen=True)
class Findings:
    """The faults that a check found; none where it passed."""

    faults: list[Mismatch] = field(default_factory=list)
    detail: str = ""
    """What was checked, such as the sizes, for the report."""
