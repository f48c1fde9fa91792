"""Swapping: a submodule of a bigger model replaced, adapted to what the rest of the model reads of it."""

from autoadapt.swapping.results import Part, Swap
from autoadapt.swapping.swaps import swap

__all__ = ["Part", "Swap", "swap"]
