"""Saving: an adapted module in a folder of data: a config in JSON, weights in safetensors, nothing that runs.

`autoadapt.saving.hub` has the same for the Hugging Face hub.
"""

from autoadapt.saving.reports import Saved
from autoadapt.saving.restoring import restore
from autoadapt.saving.writing import save

__all__ = ["Saved", "restore", "save"]
