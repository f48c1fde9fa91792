"""Assembly sessions: one config being assembled, and all that was found wrong with it so far."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path

from autoadapt.assembly.configs import Config, counted
from autoadapt.assembly.documents import Document
from autoadapt.assembly.levels import Level, cells
from autoadapt.assembly.producers import Producer
from autoadapt.assembly.python_expressions import Keys
from autoadapt.assembly.references import keys_of
from autoadapt.assembly.registry import Takes
from autoadapt.assembly.results import Given
from autoadapt.contracts.signature import TensorSpec
from autoadapt.errors import AdaptError, AssemblyError, Mismatch
from autoadapt.files.reading import one_line


@dataclass
class Taken:
    """One tensor that a part is given.

    Args:
        producer: What gives it.
        level: Which of its levels.
        spec: As what; other than the level is, an adapter is put between.
        key: Under which the producer notes the demand.
    """

    producer: Producer
    level: Level
    spec: TensorSpec
    key: str = ""

    @property
    def source(self) -> str:
        """What configs call it."""
        return self.producer.name if self.level.name == "output" else f"{self.producer.name}.{self.level.name}"

    def given(self, spec: TensorSpec, sizes: dict[str, int]) -> Given:
        """The row of a report."""
        return Given(source=self.source, spec=spec, cells=cells(spec, sizes))


@dataclass
class Argument:
    """One argument of a part: the tensors in it and their container."""

    taken: list[Taken]
    container: Takes = "one"
    whole: Producer | None = None
    """Where all that a producer returns is handed on as it is."""


@dataclass
class Session:
    """What is known while a model is made."""

    config: Config
    document: Document
    producers: dict[str, Producer] = field(default_factory=dict)
    faults: list[Mismatch] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    allow: tuple[str, ...] = ()
    """Packages, files and checkpoints that the caller allows."""
    values_made: int = 0
    """Values of the parameters of the layers so far, without models of zoos."""

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the input axes at which parts are tried and cells counted."""
        return self.producers["backbone"].sizes

    def where(self, name: str, *keys: str | int) -> str:
        """The place of a part, or of something in it, with its line."""
        return self.document.where((*keys_of(name), *keys))

    def fault(self, where: str, expected: str, found: str, remedy: str = "", why: str = "") -> None:
        """Note a fault."""
        self.faults.append(Mismatch(where, expected, found, remedy, why))

    def note(self, error: AdaptError, keys: Keys, expected: str = "", remedy: str = "") -> None:
        """Note the error of another step at its place in the config.

        Args:
            error: What was raised.
            keys: The place.
            expected: What was expected there; what the error itself says where left out.
            remedy: What to do; likewise.
        """
        where = self.document.where(keys)
        for fault in error.mismatches or (Mismatch(where, expected, error.summary),):
            why = fault.why or (error.summary if expected else "")
            self.fault(where, expected or fault.expected, fault.found, remedy or fault.remedy, why)

    def check(self) -> None:
        """Raise with every fault, if there is any.

        Raises:
            AssemblyError: Something is wrong with the config.
        """
        if self.faults:
            raise AssemblyError(counted(len(self.faults)), self.faults)


def said_by(error: Exception) -> str:
    """What an error says in a line; the asserted line for an assertion, which mostly says nothing."""
    text = one_line(error)
    if not isinstance(error, AssertionError):
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text}: `{last.line}` ({Path(last.filename).name}, line {last.lineno})"
