"""Folding: adapters' projections merged into the layers that read them."""

from autoadapt.swapping.folding.foldings import Folding, put_layers
from autoadapt.swapping.folding.folds import fold

__all__ = ["Folding", "fold", "put_layers"]
