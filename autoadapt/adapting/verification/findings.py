"""Findings: what a check that ran to its end has to say."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoadapt.errors import Mismatch

__all__ = ["Findings"]


@dataclass(frozen=True)
class Findings:
    """Faults, and for the report how far the check went."""

    faults: list[Mismatch] = field(default_factory=list)
    detail: str = ""
