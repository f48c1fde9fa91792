"""Swapping: a part of a bigger model replaced, adapted to what the rest of the model reads of it."""

from autoadapt.swapping.region_candidates import regions
from autoadapt.swapping.results import Part, Swap
from autoadapt.swapping.swaps import swap

__all__ = ["Part", "Swap", "regions", "swap"]
