"""What can go wrong: one kind of fault, carried by one exception per step.

AdaptError
├── SourceError          a model or a file could not be read
├── SignatureError       a signature, a dim or a text form is malformed
├── CaptureError         a module could not be probed, or an axis not be explained
│   └── InputError       it raises at the given input
├── MatchError           no part of the new module serves a part of the old one
├── PlanError            a plan is inconsistent or asks for something impossible
├── BuildError           a plan could not be made into a module
├── VerificationError    a module does not hold its signature
├── SwapError            a swap inside a bigger model was refused
├── TransferError        weights could not be loaded
│   └── CoverageError    too few of them would be
├── CalibrationError     adapters could not be fitted
├── SavingError          a module could not be saved, restored or written as source
├── ExportError          a module does not go through an exporter, or not at all sizes
├── RankingError         candidates could not be ranked
└── AssemblyError        a config is faulty
"""

from __future__ import annotations

import difflib
import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

from autoadapt.errors.codes import code_of, page_of
from autoadapt.errors.printable import visible


@dataclass(frozen=True)
class Mismatch:
    """One fault: the place, what was expected there, what was found, what to do.

    Example:
        >>> print(Mismatch("output c5", "f32[B, 2048]", "f32[B, 512]", 'adapt(..., project="always")'))
        output c5
          expected  f32[B, 2048]
          found     f32[B, 512]
          try       adapt(..., project="always")
    """

    where: str
    expected: str
    found: str
    remedy: str = ""
    why: str = ""

    def __str__(self) -> str:
        return visible("\n".join([self.where, *self.lines()]))

    def lines(self) -> list[str]:
        """The labelled lines below the place; a text of several lines is indented under its label."""
        labelled = (("expected", self.expected), ("found", self.found), ("why", self.why), ("try", self.remedy))
        return [visible(f"  {label:<8}  " + text.replace("\n", "\n" + " " * 12)) for label, text in labelled if text]


class AdaptError(Exception):
    """Base of everything autoadapt raises: a summary in one line, and all faults at once.

    Example:
        >>> fault = Mismatch("c5", "stride 32", "stride 16", 'pairs={"c5": "layer4"}')
        >>> print(MatchError("nothing serves `c5`", [fault]))
        nothing serves `c5`
          expected  stride 32
          found     stride 16
          try       pairs={"c5": "layer4"}
    """

    def __init__(self, summary: str, mismatches: Iterable[Mismatch] = ()) -> None:
        self.summary = visible(summary)
        self.mismatches = tuple(mismatches)
        super().__init__(self._text())

    @functools.cached_property
    def code(self) -> str:
        """A short name of the message that stays the same in later versions, such as AA0123; empty if it has none."""
        return code_of(tuple(kind.__name__ for kind in type(self).__mro__), self.summary)

    @property
    def url(self) -> str:
        """Where the manual has the message; empty if it does not."""
        return page_of(self.code)

    @functools.cached_property
    def __notes__(self) -> list[str]:
        """What tracebacks of Python 3.11 and newer print below the message (PEP 678)."""
        return [f"{self.code}  {self.url}"] if self.code else []

    def _text(self) -> str:
        """The place of a single fault is left out where the summary names it."""
        if len(self.mismatches) == 1 and self.mismatches[0].where in self.summary:
            return "\n".join([self.summary, *self.mismatches[0].lines()])
        return "\n".join([self.summary, *map(str, _by_cause(self.mismatches))])

    def __reduce__(self) -> tuple[type[AdaptError], tuple[str, tuple[Mismatch, ...]]]:
        return type(self), (self.summary, self.mismatches)


def _by_cause(faults: Iterable[Mismatch]) -> list[Mismatch]:
    """Faults in a row that have one cause, told once: the places and what each expects, then what was found and why."""
    told: list[Mismatch] = []
    for _, group in itertools.groupby(faults, key=lambda fault: (fault.found, fault.why, fault.remedy)):
        first, *others = group
        if others and first.why:
            wheres = ", ".join(fault.where for fault in (first, *others))
            lines = [f"{fault.where}: {fault.expected}" for fault in (first, *others)]
            same = all(fault.expected == first.expected for fault in others)
            told.append(replace(first, where=wheres, expected=first.expected if same else "\n".join(lines)))
        else:
            told += [first, *others]
    return told


class SourceError(AdaptError):
    """A model or a file could not be read."""


class SignatureError(AdaptError):
    """A signature, a dim or a text form is malformed."""


class CaptureError(AdaptError):
    """A module could not be probed, or an axis not be explained."""


class InputError(CaptureError):
    """A module raises at the given input; it may run at another."""


class MatchError(AdaptError):
    """No part of the new module serves a part of the old one."""


class PlanError(AdaptError):
    """A plan is inconsistent or asks for something impossible."""


class BuildError(AdaptError):
    """A plan could not be made into a module."""


class VerificationError(AdaptError):
    """A module does not hold its signature."""


class SwapError(AdaptError):
    """A swap inside a bigger model was refused; the model is as it was."""


class TransferError(AdaptError):
    """Weights could not be loaded; the model is as it was."""


class CoverageError(TransferError):
    """Nothing of a checkpoint would be loaded, or less than was asked for; the model is as it was."""


class CalibrationError(AdaptError):
    """Adapters could not be fitted; the weights are as they were."""


class RankingError(AdaptError):
    """Candidates could not be ranked."""


class SavingError(AdaptError):
    """A module could not be saved, restored or written as source; files are as they were."""


class ExportError(AdaptError):
    """A module does not go through an exporter, or its program holds at fewer sizes than were asked for."""


class AssemblyError(AdaptError):
    """A config is faulty."""


def nearest(name: str, names: Iterable[str], *, count: int = 3, least: float = 0.5) -> list[str]:
    """The names most like a misspelt one, best first, of at least this similarity (from 0 to 1).

    Example:
        >>> nearest("layer5", ["stem", "layer1", "layer4"], count=2)
        ['layer4', 'layer1']
    """
    return difflib.get_close_matches(name, list(dict.fromkeys(names)), n=count, cutoff=least)
