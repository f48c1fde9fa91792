"""Sizes of axes as exact integer functions of the input axes."""

from autoadapt.contracts.dims.algebra import Dim
from autoadapt.contracts.dims.fitting import distinguishing_size, fit
from autoadapt.contracts.dims.leading import leading_and_product

__all__ = ["Dim", "distinguishing_size", "fit", "leading_and_product"]
