"""Sizes of axes as exact integer functions of the input axes."""

from autoadapt.dims.algebra import Dim
from autoadapt.dims.fitting import distinguishing_size, fit

__all__ = ["Dim", "distinguishing_size", "fit"]
