"""Reasons: which part of a module an exporter refuses, and what it would take."""

from __future__ import annotations

import re
from collections.abc import Mapping

from autoadapt.errors import ExportError, Mismatch
from autoadapt.exporting.formats import Call, Format, program_of
from autoadapt.exporting.ranges import SizeRange
from autoadapt.exporting.shapes import UNITS, shapes_of
from autoadapt.verification.checks import any_size_program
from autoadapt.verification.sessions import Session, said

__all__ = ["narrowed", "refusal"]

_SUGGESTED = re.compile(r"^\s*(\w+) = Dim\('\1'(?:, min=(\d+))?(?:, max=(\d+))?\)\s*$", re.MULTILINE)


def refusal(
    session: Session, format_: Format, example: Mapping[str, int], ranges: Mapping[str, SizeRange], error: Exception
) -> ExportError:
    """What an exporter's exception means: the part that it refuses, its reason, and ranges that it would take.

    Finds out by exporting again: the backbone alone, then with fewer dynamic axes.

    Args:
        session: Of the module.
        format_: What it was to become.
        example: The sizes it was exported at.
        ranges: The sizes it was to hold at.
        error: What the exporter raised.
    """
    reason = _backbone_alone(session)
    where = "backbone" if reason else "module"
    why = f"the backbone alone fails as well: {reason}" if reason else "the backbone alone goes through torch.export"
    narrower = _suggested(error, ranges) or _fewer(session, example, ranges)
    remedy = f"ranges={narrower}" if narrower else ""
    asked = ", ".join(f"{name} {one}" for name, one in ranges.items()) or "the given size"
    fault = Mismatch(where, f"a program for {asked}", _reason(error), remedy, why)
    return ExportError(f"{session.signature.name} does not go through {format_.name}", [fault])


def _reason(error: Exception) -> str:
    """The first lines that say something, without the pages after them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "\n".join([said(error)[:200], *(line[:200] for line in lines[1:3])])


def _backbone_alone(session: Session) -> str:
    """What the exporter says of the backbone alone, at whatever sizes it would take; empty where it takes it."""
    bare = session.backbone()
    if bare is None:
        return ""
    try:
        any_size_program(bare)
    except Exception as error:
        return said(error)[:120]
    return ""


def narrowed(ranges: Mapping[str, SizeRange], error: Exception) -> dict[str, SizeRange] | None:
    """The ranges that torch says would do; None where it says nothing new, or of sizes that were asked for."""
    found = dict(ranges)
    for name, (low, high) in _suggested(error, ranges).items():
        if ranges[name].asked:
            return None
        why = "torch takes another path for others"
        found[name] = ranges[name].model_copy(update={"low": low, "high": high, "why": why})
    return None if found == ranges else found


def _suggested(error: Exception, ranges: Mapping[str, SizeRange]) -> dict[str, tuple[int, int | None]]:
    """Sizes that torch says would do, by axis; it counts those that come in steps."""
    found = {}
    for text, low, high in _SUGGESTED.findall(str(error)):
        one = ranges.get(text.removesuffix(UNITS))
        if one is not None and (low or high):
            ends = [int(end) * one.step + one.offset if end else None for end in (low, high)]
            found[one.axis] = (ends[0] or one.low, ends[1] or one.high)
    return found


def _fewer(session: Session, example: Mapping[str, int], ranges: Mapping[str, SizeRange]) -> dict[str, int]:
    """The most axes that may stay dynamic: the batch alone, or none; empty where nothing goes through."""
    free = [name for name, one in ranges.items() if not one.fixed]
    for kept in (["B"], []):
        fixed = {name: example[name] for name in free if name not in kept}
        if not fixed:
            continue
        tried = dict(ranges) | {name: SizeRange(axis=name, low=size, high=size) for name, size in fixed.items()}
        call = Call(session.copy(), session.arguments(example), shapes_of(session.signature, tried), session.signature)
        try:
            program_of(call)
        except Exception:  # whatever it raises, these axes will not do
            continue
        return fixed
    return {}
