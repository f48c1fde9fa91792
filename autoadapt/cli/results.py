"""Results: what commands show that is more than one result of a verb."""

from __future__ import annotations

from typing import Any

from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification import Verification
from autoadapt.assembly import Assembly
from autoadapt.contracts.facts import Dated


class Adapted(Dated):
    """What `adapt` did, and the proof that it holds."""

    plan: Plan
    verification: Verification

    def __str__(self) -> str:
        return f"{self.plan}\n\n{self.verification}"


class Whole(Dated):
    """A folder of a whole model: what it is, and how each of its adapted parts is made."""

    model: str
    """Python path of its class."""
    source: str
    """The name that it is made by; empty where it has none."""
    parts: dict[str, Plan]

    def __str__(self) -> str:
        title = f"{self.model.rpartition(':')[2]}, {f'made by {self.source}' if self.source else self.model}"
        return "\n\n".join([title, *(f"{path}: {plan}" for path, plan in self.parts.items())])


class Verified(Dated):
    """The adapted parts of a whole model, each held against the contract that it was saved with."""

    parts: dict[str, Verification]

    @property
    def passed(self) -> bool:
        """Whether all parts hold."""
        return all(one.passed for one in self.parts.values())

    def __str__(self) -> str:
        return "\n\n".join(f"{path}: {report}" for path, report in self.parts.items())


class Assembled(Dated):
    """A config with every number filled in, and what its parts are given."""

    config: dict[str, Any]
    report: Assembly
    text: str

    def __str__(self) -> str:
        return f"{self.report}\n\n{self.text.rstrip()}"
