"""Comparing: a file run beside the module that it was made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from autoadapt.adapting.verification.sessions import Session, said
from autoadapt.contracts.trees import flatten
from autoadapt.errors import AdaptError, ExportError, Mismatch
from autoadapt.saving.exporting.formats import Format, Runner
from autoadapt.saving.exporting.ranges import SizeRange
from autoadapt.saving.exporting.reasons import unread
from autoadapt.saving.exporting.results import Compared


def compare(
    session: Session,
    format_: Format,
    path: Path,
    ranges: Mapping[str, SizeRange],
    example: Mapping[str, int],
    tolerance: float,
) -> list[Compared]:
    """Run a file and the module at the smallest sizes and at larger, odd ones.

    Args:
        session: Of the module.
        format_: Of the file.
        path: The file.
        ranges: Sizes at which it should hold.
        example: The sizes that it was exported at.
        tolerance: How far outputs may be apart.

    Raises:
        ExportError: The file does not run, or returns something else.
    """
    run, copied, found, faults = _loaded(session, format_, path), session.copy(), list[Compared](), list[Mismatch]()
    for sizes in _other_sizes(ranges, example):
        arguments = session.arguments(sizes)
        expected = flatten(arguments.call(copied))[1]
        try:
            difference, reason = _difference(expected, run(arguments))
        except Exception as error:
            difference, reason = math.inf, said(error)[:200]
        found.append(Compared(sizes=sizes, difference=difference))
        if not difference <= tolerance:
            at = " ".join(f"{name}={size}" for name, size in sizes.items())
            remedy, why = _help(format_, ranges, example, difference, tolerance)
            faults.append(Mismatch(at, f"the module's outputs, within {tolerance:g}", reason, remedy, why))
    if faults:
        name = session.signature.name
        raise ExportError(f"as {format_.name} the module in the contract of {name} returns something else", faults)
    return found


def _loaded(session: Session, format_: Format, path: Path) -> Runner:
    """The program of a file.

    Raises:
        ExportError: It cannot be read back.
    """
    try:
        return format_.load(path)
    except (AdaptError, OSError):
        raise
    except Exception as error:  # writers of torch put names into code that its readers then cannot parse
        raise unread(session, format_, error) from error


def _other_sizes(ranges: Mapping[str, SizeRange], example: Mapping[str, int]) -> list[dict[str, int]]:
    odd = {
        name: one.near(3 if name == "B" else (max(example[name] * 9 // 8, one.low) + 18 * i) | 1)
        for i, (name, one) in enumerate(ranges.items())
    }
    smallest = {name: one.low for name, one in ranges.items()}
    return [smallest] if smallest == odd else [smallest, odd]


_ROUNDING = 100
"""Outputs that are apart by fewer tolerances than these look rounded, not wrong."""


def _help(
    format_: Format, ranges: Mapping[str, SizeRange], example: Mapping[str, int], difference: float, tolerance: float
) -> tuple[str, str]:
    """What to do about outputs that are apart, and why they may be."""
    fixed = {name: example[name] for name, one in ranges.items() if not one.fixed}
    if difference < _ROUNDING * tolerance:
        return f"tolerance={difference * 2:.0e}", "both round, each in its own order"
    if format_.name == "TorchScript":
        why = "a trace keeps the numbers that Python code worked out at the size that it was traced at"
        return f'aa.export(net, "net.pt2")  # or ranges={fixed}', why
    return f"ranges={fixed}" if fixed else "", ""


def _difference(expected: list[torch.Tensor], found: list[torch.Tensor]) -> tuple[float, str]:
    """How far outputs are from those expected, and that in words; infinite where they cannot be compared."""
    if len(expected) != len(found):
        return math.inf, f"{len(found)} outputs, not {len(expected)}"
    worst, reason = 0.0, ""
    for i, (left, right) in enumerate(zip(expected, found, strict=True)):
        if (left.shape, left.dtype) != (right.shape, right.dtype):
            return math.inf, f"output {i} is {right.dtype} {list(right.shape)}, not {left.dtype} {list(left.shape)}"
        if left.numel() == 0:
            continue
        values = left.double()
        apart = float((values - right.to(left.device).double()).abs().max() / values.abs().max().clamp(min=1.0))
        if math.isnan(apart):
            return math.inf, f"output {i} holds values that are no numbers"
        if apart > worst:
            worst, reason = apart, f"output {i} differs by {apart:.1e}"
    return worst, reason
