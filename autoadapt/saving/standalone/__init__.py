"""Standalone: an adapted module as one file of plain PyTorch, which runs without autoadapt."""

from autoadapt.saving.standalone.source_files import to_source

__all__ = ["to_source"]
