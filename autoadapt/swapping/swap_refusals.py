"""Swap refusals: the error of any step as one of the swap, and as what a dry run returns."""

from __future__ import annotations

from collections.abc import Sequence

from autoadapt.errors import AdaptError, Mismatch, SwapError
from autoadapt.swapping.results import Fault, Swap
from autoadapt.swapping.successors import Successor

__all__ = ["refusal_of", "refused"]


def refusal_of(path: str, error: AdaptError) -> SwapError:
    """The error of a step as one of the swap."""
    faults = [
        Mismatch(f.where, f.expected, f.found, f.remedy.replace("adapt(...", "swap(..."), f.why)
        for f in error.mismatches
    ]
    summary = error.summary if isinstance(error, SwapError) else f"`{path}` is not swapped: {error.summary}"
    return SwapError(summary, faults)


def refused(name: str, planned: Sequence[Successor], refusal: SwapError, call: str) -> Swap:
    """What a dry run returns of a swap that is refused."""
    faults = tuple(
        Fault(where=f.where, expected=f.expected, found=f.found, remedy=f.remedy, why=f.why) for f in refusal.mismatches
    )
    parts = tuple(one.part for one in planned)
    return Swap(model=name, parts=parts, refused=refusal.summary, faults=faults, call=call)
