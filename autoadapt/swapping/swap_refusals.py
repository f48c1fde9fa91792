"""Swap refusals: the error of any step as one of the swap, and as what a dry run returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoadapt.errors import AdaptError, SwapError
from autoadapt.swapping.results import Fault, Swap
from autoadapt.swapping.successors import Successor


def refusal_of(path: str, error: AdaptError) -> SwapError:
    """The error of a step as one of the swap."""
    faults = [replace(fault, remedy=fault.remedy.replace("adapt(...", "swap(...")) for fault in error.mismatches]
    summary = error.summary if isinstance(error, SwapError) else f"`{path}` is not swapped: {error.summary}"
    return SwapError(summary, faults)


def refused(name: str, planned: Sequence[Successor], refusal: SwapError, call: str) -> Swap:
    """What a dry run returns of a swap that is refused."""
    faults = tuple(Fault(**vars(fault)) for fault in refusal.mismatches)
    parts = tuple(one.part for one in planned)
    return Swap(model=name, parts=parts, refused=refusal.summary, faults=faults, call=call)
