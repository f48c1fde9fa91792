"""Counterexamples: the few smallest cases at which a check failed, as text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from autoadapt.adapting.verification import Check, Verification
from autoadapt.errors import Mismatch

MOST = 3
_CAPTURED = "aa.capture(like, inputs)"
_MEANING = "each line: check, output and axis (at input sizes): expected (old), found (new)"
_SIZES = re.compile(r"\b[A-Z]\w*=(\d+)|\b(?<=\bat )(\d+(?:x\d+)*)")


def failure_text(net: str, contract: str, report: Verification, made: str = _CAPTURED) -> str:
    """What failed, in a line, what the lines below mean, and at most three cases, those of the smallest inputs first.

    Example:
        >>> faults = tuple(Mismatch(f"0 at 1x{n}x{n}", "9", "8") for n in (64, 33))
        >>> checks = (Check(name="sizes", outcome="failed", faults=faults), Check(name="calls", outcome="passed"))
        >>> print(failure_text("Mine", "ResNet", Verification(name="Mine", checks=checks)).splitlines()[2])
          sizes: 0 at 1x33x33: expected 9, found 8
    """
    failed: list[Check] = [check for check in report.checks if check.outcome == "failed"]
    names = ", ".join(check.name.replace(", ", " and ") for check in failed)  # a comma stands between two checks
    count = f"{len(failed)} of {len(report.checks)}"
    summary = f"{net} does not keep the signature of {contract}: {count} checks failed ({names})"
    return cases_text(summary, [(check.name, fault) for check in failed for fault in check.faults], made)


def cases_text(summary: str, cases: Sequence[tuple[str, Mismatch]], made: str = _CAPTURED) -> str:
    """A summary over what differs at every size and the cases of the smallest inputs, by the checks that failed."""
    counts = Counter(map(_line, cases))  # what was found in several calls alike is told once
    ordered = sorted(dict.fromkeys(cases), key=lambda case: (case[0] != "signature", _extent(case[1].where)))
    shown = list(dict.fromkeys(map(_line, ordered)))
    lines = [f"  {line}" + (f" ({counts[line]} times)" if counts[line] > 1 else "") for line in shown[:MOST]]
    if (left := len(shown) - MOST) > 0:
        lines.append(f"  and {left} more, which print(aa.verify(net, {made}, inputs=inputs)) shows")
    return "\n".join([summary, *([_MEANING] if cases else []), *lines])


def _line(case: tuple[str, Mismatch]) -> str:
    name, fault = case
    where = f"{name}: " if fault.where == name else f"{name}: {fault.where}: "
    return f"{where}expected {fault.expected}, found {fault.found}"


def _extent(where: str) -> float:
    """How large the input of a case is; what names no sizes stands last."""
    sizes = [int(size) for found in _SIZES.findall(where) for size in "".join(found).split("x")]
    return math.prod(sizes) if sizes else math.inf
