"""Standalone: an adapted module as one file of plain PyTorch, which runs without autoadapt."""

from autoadapt.saving.standalone.writing import to_source

__all__ = ["to_source"]
