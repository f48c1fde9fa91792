"""Results: the report of a transfer, in which every tensor of either side stands exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

from autoadapt.contracts.facts import Dated
from autoadapt.errors import Mismatch, TransferError
from autoadapt.showing import Shown
from autoadapt.showing.tables import page_width, paragraph
from autoadapt.weights.entries import ModelEntry, SourceEntry
from autoadapt.weights.patterns import merged
from autoadapt.weights.summary import coverage, module_rows, name_stages, percent, sections

_PASTED = 40  # patterns in a remedy; fewer would leave faults when it is pasted


class Transfer(Shown, Dated):
    """What was loaded from where, what was not, and why.

    Attributes:
        schema_version: Version of the JSON form.
        source: File or kind of object.
        container: Where in it the state dict was.
        model: Class of the model.
        sources: One entry for each tensor of the checkpoint.
        targets: One entry for each tensor of the model.
        compared: Tensors found bit-equal to the source after the copy.
        dry_run: Whether nothing was written because that was asked for.
        remarks: What a person should know besides.
        hint: An argument that would load more.

    Example:
        >>> import torch
        >>> from autoadapt.weights import transfer
        >>> print(transfer({"module.weight": torch.ones(2, 3), "module.bias": torch.ones(2)}, torch.nn.Linear(3, 2)))
        state dict (2 tensors) -> Linear (2)                  LOADED 100 % of parameters
         weight, bias  2/2  100 %
         names      2 prefix "module." removed
         compared   2/2 tensors bit-equal after the copy
    """

    made_by = "transfer(checkpoint, model)"

    schema_version: Literal[1] = 1
    source: str
    container: str = ""
    model: str
    sources: tuple[SourceEntry, ...]
    targets: tuple[ModelEntry, ...]
    compared: int = 0
    dry_run: bool = False
    remarks: tuple[str, ...] = ()
    hint: str = ""

    @cached_property
    def coverage(self) -> float:
        """Share of the parameters that came from the checkpoint, among those that should; `min_coverage` reads it."""
        return coverage(e for e in self.targets if e.bucket == "loaded" or not e.expected)

    @cached_property
    def share(self) -> float:
        """Share of all the model's parameters that came from the checkpoint."""
        return coverage(self.targets)

    @property
    def source_counts(self) -> dict[str, int]:
        """Tensors of the checkpoint by bucket."""
        return dict(Counter(entry.bucket for entry in self.sources))

    @property
    def model_counts(self) -> dict[str, int]:
        """Tensors of the model by bucket."""
        return dict(Counter(entry.bucket for entry in self.targets))

    @property
    def ok(self) -> bool:
        """Whether every difference is a known one."""
        return not self.faults()

    def faults(self) -> list[Mismatch]:
        """The differences that nobody said to expect, merged."""
        mismatched = [e for e in self.targets if e.bucket == "mismatched" and not e.expected]
        missing = [e for e in self.targets if e.bucket == "missing" and not e.expected]
        unexpected = [e for e in self.sources if e.bucket == "unexpected" and not e.expected]
        here, there = [e.name for e in self.targets], [e.name for e in self.sources]
        found = (
            mismatched and _fault(mismatched, here, "a shape that fits", "expect_missing"),
            missing and _fault(missing, here, "a tensor in the checkpoint", "expect_missing"),
            unexpected and _fault(unexpected, there, "a place in the model", "expect_unexpected"),
        )
        return [self._with_hint(fault) for fault in found if fault]

    def _with_hint(self, fault: Mismatch) -> Mismatch:
        """Names that a rule would settle are no known differences: the rule goes before the patterns."""
        if not self.hint.startswith(("rename=", "merge=")) or fault.expected == "a shape that fits":
            return fault
        return replace(fault, remedy=self.hint)

    def raise_if_failed(self) -> None:
        """Accept known differences only.

        Raises:
            TransferError: If anything is missing, mismatched or unexpected that was not expected.
        """
        if faults := self.faults():
            raise TransferError(f"loaded {percent(self.coverage)} of {self.model}, with differences", faults)

    def diff(self, other: Transfer) -> tuple[Mismatch, ...]:
        """Where another transfer came out differently; expected is this one, found the other.

        Example:
            >>> import torch
            >>> from autoadapt.weights import transfer
            >>> state = torch.nn.Linear(3, 2).state_dict()
            >>> whole = transfer(state, torch.nn.Linear(3, 2))
            >>> print(whole.diff(transfer(state, torch.nn.Linear(3, 2), include=["weight"]))[0])
            model: bias
              expected  loaded
              found     missing
        """
        return (
            *_differences("checkpoint", self.sources, other.sources, lambda e: e.target),
            *_differences("model", self.targets, other.targets, lambda e: e.source),
        )[::-1]

    def __str__(self) -> str:
        return "\n".join([*self._title(), *module_rows(self.targets), *self._facts(), *self._notes()])

    def _title(self) -> list[str]:
        container = f"{self.container}, " if self.container else ""
        sides = f"{self.source} ({container}{len(self.sources)} tensors) -> {self.model} ({len(self.targets)})"
        verb = "WOULD LOAD" if self.dry_run else "LOADED"
        verdict = f"{verb} {percent(self.share)} of parameters"
        if self.share != self.coverage:
            verdict += f", {percent(self.coverage)} of those expected"
        gap = page_width() - len(sides) - len(verdict)
        return [sides + " " * gap + verdict] if gap > 1 else [sides, verdict.rjust(page_width())]

    def _facts(self) -> list[str]:
        loaded = sum(entry.bucket in ("loaded", "converted") for entry in self.sources)
        compared = "nothing written" if self.dry_run else f"{self.compared}/{loaded} tensors bit-equal after the copy"
        return [*_note("names", name_stages(self.sources)), *_note("compared", compared)]

    def _notes(self) -> list[str]:
        lines = sections(self.sources, self.targets)
        for remark in self.remarks:
            lines += _note("remark", remark)
        return lines + _note("hint", self.hint)


def _note(label: str, text: str) -> list[str]:
    return paragraph(text, f" {label:<9}  ", " " * 12) if text else []


def _fault(entries: Sequence[SourceEntry | ModelEntry], among: list[str], expected: str, argument: str) -> Mismatch:
    patterns = merged([entry.name for entry in entries], among)
    shown = ", ".join(patterns[:6]) + (f", and {len(patterns) - 6} more" if len(patterns) > 6 else "")
    quoted = ", ".join(f'"{pattern}"' for pattern in patterns[:_PASTED])
    found = f"{len(entries)} {entries[0].bucket}"
    reasons = Counter(entry.how for entry in entries if entry.how)
    why = ", ".join(reason for reason, _ in reasons.most_common(2))
    return Mismatch(shown, expected, found, f"{argument}=[{quoted}]", why)


def _differences(
    side: str,
    mine: Sequence[SourceEntry | ModelEntry],
    others: Sequence[SourceEntry | ModelEntry],
    where: Callable[..., str | None],
) -> list[Mismatch]:
    texts = [{entry.name: _fate(entry, where(entry)) for entry in entries} for entries in (mine, others)]
    groups: dict[tuple[str, str], list[str]] = {}
    everything = list(dict.fromkeys([*texts[0], *texts[1]]))
    for name in everything:
        pair = (texts[0].get(name, "not there"), texts[1].get(name, "not there"))
        if pair[0] != pair[1]:
            groups.setdefault(pair, []).append(name)
    return [Mismatch(f"{side}: {', '.join(merged(names, everything))}", *pair) for pair, names in groups.items()]


def _fate(entry: SourceEntry | ModelEntry, counterpart: str | None) -> str:
    """What became of a tensor, with the name on the other side where that is another."""
    return entry.bucket if counterpart in (None, entry.name) else f"{entry.bucket}, {counterpart}"
