"""Folding: adapters' projections merged into the layers that read them."""

from autoadapt.swapping.folding.folds import fold

__all__ = ["fold"]
