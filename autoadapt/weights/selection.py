"""A selection: what the caller wants taken, left and expected, as tests of names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoadapt.errors import Mismatch, TransferError, nearest
from autoadapt.weights.conversions import Wish
from autoadapt.weights.keeping import Kept
from autoadapt.weights.patterns import Pattern, matcher, pattern_text
from autoadapt.weights.resampling import Grid

_FRONT = 3  # segments of a name that a misspelt pattern is compared with


@dataclass(frozen=True)
class Patterns:
    """Some patterns of one argument, and whether a name fits any."""

    argument: str
    tests: tuple[tuple[str, Callable[[str], bool]], ...]

    @classmethod
    def parse(cls, argument: str, patterns: Iterable[Pattern] | None) -> Patterns:
        """Read patterns at the door.

        Raises:
            TransferError: If a text stands where a list should, or a regex is malformed.
        """
        if isinstance(patterns, str):
            fault = Mismatch(argument, "a list of patterns", repr(patterns), f'{argument}=["{patterns}"]')
            raise TransferError("a single text is no list of patterns", [fault])
        return cls(argument, tuple((pattern_text(p), _test(argument, p)) for p in patterns or ()))

    def __call__(self, *names: str) -> bool:
        return any(test(name) for _, test in self.tests for name in names)

    def unmatched(self, names: Sequence[str]) -> list[str]:
        """The patterns that no name fits."""
        return [text for text, test in self.tests if not any(map(test, names))]


def _test(argument: str, pattern: Pattern) -> Callable[[str], bool]:
    try:
        return matcher(pattern)
    except re.error as error:
        fault = Mismatch(f"{argument}, {pattern_text(pattern)}", "a regular expression", str(error))
        raise TransferError("a pattern is malformed", [fault]) from error


@dataclass(frozen=True)
class Selection:
    """All that the caller said about names.

    Args:
        include: What to take; nothing said means everything.
        exclude: What to leave.
        missing: Names of the model that may stay as they are.
        unexpected: Names of the source that may have no place.
        policies: Shape policies; the first whose pattern fits counts.
        kept: Old index of each new row, alike.
        grids: How tokens lie, alike.
    """

    include: Patterns
    exclude: Patterns
    missing: Patterns
    unexpected: Patterns
    policies: tuple[tuple[Patterns, str], ...]
    kept: tuple[tuple[Patterns, Kept], ...] = ()
    grids: tuple[tuple[Patterns, Grid], ...] = ()

    @classmethod
    def parse(
        cls,
        include: Sequence[Pattern] | None,
        exclude: Sequence[Pattern] | None,
        missing: Sequence[Pattern],
        unexpected: Sequence[Pattern],
        policies: Mapping[Pattern, str],
        kept: Mapping[Pattern, Kept] | None = None,
        grids: Mapping[Pattern, Grid] | None = None,
    ) -> Selection:
        """Read all patterns; see `Patterns.parse`."""
        return cls(
            Patterns.parse("include", include),
            Patterns.parse("exclude", exclude),
            Patterns.parse("expect_missing", missing),
            Patterns.parse("expect_unexpected", unexpected),
            tuple((Patterns.parse("shapes", [pattern]), policy) for pattern, policy in policies.items()),
            tuple((Patterns.parse("keep", [pattern]), told) for pattern, told in (kept or {}).items()),
            tuple((Patterns.parse("grid", [pattern]), grid) for pattern, grid in (grids or {}).items()),
        )

    def wish(self, source: str, target: str) -> Wish:
        """What to do where the shapes of a pair of names differ; to keep rows or tell a grid is to ask for it."""
        policy = next((policy for test, policy in self.policies if test(source, target)), "skip")
        kept = next((kept for test, kept in self.kept if test(source, target)), None)
        grid = next((grid for test, grid in self.grids if test(source, target)), None)
        if policy == "skip":
            policy = "resample" if grid else "slice" if kept else policy
        return Wish(policy, kept, grid)

    def refuse_idle(self, as_they_are: Mapping[str, str], others: Mapping[str, str]) -> None:
        """Refuse an order or a grid that was told for tensors of equal shapes alone, which would be taken as they are.

        Args:
            as_they_are: Names in the source and in the model of tensors that are copied.
            others: Of tensors that are converted, or not taken.

        Raises:
            TransferError: With the pattern and the first of its tensors.
        """
        told = [("keep", test, kept.rows != tuple(range(len(kept.rows)))) for test, kept in self.kept]
        told += [("grid", test, grid.old != grid.new) for test, grid in self.grids]
        faults = []
        for argument, test, moves in told:
            idle = [target for source, target in as_they_are.items() if test(source, target)]
            if moves and idle and not any(test(*pair) for pair in others.items()):
                where = f"{argument}, {test.tests[0][0]}"
                found = f"{idle[0]} has the same shape before and after"
                faults.append(Mismatch(where, "a tensor whose shape changes", found, "reorder it in the state dict"))
        if faults:
            raise TransferError("what was told would change nothing", faults)

    def left_out(self, sources: Iterable[str], pairs: Mapping[str, tuple[str, str]]) -> dict[str, str]:
        """Why a tensor is left out, by source name; a pattern may say either of its names."""
        reasons = {}
        for name in sources:
            names = (name, pairs[name][0]) if name in pairs else (name,)
            if self.exclude(*names):
                reasons[name] = "exclude"
            elif self.include.tests and not self.include(*names):
                reasons[name] = "not in include"
        return reasons

    def remarks(self, sources: Sequence[str], targets: Sequence[str]) -> list[str]:
        """Patterns that fit nothing, with the nearest that would.

        Raises:
            TransferError: If no pattern of `include` fits anything.
        """
        both = [*sources, *targets]
        if self.include.tests and len(self.include.unmatched(both)) == len(self.include.tests):
            faults = [
                Mismatch(f'include, "{text}"', "a name of either side", "none", _suggestion(text, both))
                for text, _ in self.include.tests
            ]
            raise TransferError("include fits no tensor", faults)
        told = [(self.include, both), (self.exclude, both), (self.missing, targets), (self.unexpected, sources)]
        # The bare default "*" always fits; a policy pattern that fits nothing is most likely misspelt.
        told += [(test, both) for rules in (self.policies, self.kept, self.grids) for test, _ in rules]
        return [
            f'{patterns.argument}: "{text}" fits nothing{_nearest_text(text, names)}'
            for patterns, names in told
            for text in patterns.unmatched(names)
        ]


def _suggestion(text: str, names: Iterable[str]) -> str:
    close = nearest(text, _fronts(names), count=1)
    return f'include=["{close[0]}"]' if close else f"include={list(_fronts(names))[:4]}".replace("'", '"')


def _nearest_text(text: str, names: Iterable[str]) -> str:
    close = nearest(text, _fronts(names), count=1)
    return f', nearest "{close[0]}"' if close else ""


def _fronts(names: Iterable[str]) -> dict[str, None]:
    segments = [name.split(".") for name in names]
    return dict.fromkeys(".".join(each[:depth]) for depth in range(1, _FRONT + 1) for each in segments)
