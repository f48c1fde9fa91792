"""Results: what commands show that is more than one result of a verb."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification import Verification
from autoadapt.assembly import Assembly
from autoadapt.contracts.facts import Dated

__all__ = ["Adapted", "Assembled"]


class Adapted(Dated):
    """What `adapt` did, and the proof that it holds."""

    model_config = ConfigDict(frozen=True)

    plan: Plan
    verification: Verification

    def __str__(self) -> str:
        return f"{self.plan}\n\n{self.verification}"


class Assembled(Dated):
    """A config with every number filled in, and what its parts are given."""

    model_config = ConfigDict(frozen=True)

    config: dict[str, Any]
    report: Assembly
    text: str

    def __str__(self) -> str:
        return f"{self.report}\n\n{self.text.rstrip()}"
