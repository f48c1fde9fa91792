"""Saving: an adapted module in a folder of data: a config in JSON, weights in safetensors, nothing that runs.

`autoadapt.saving.hub` has the same for the Hugging Face hub.
"""

from autoadapt.saving.folders import save
from autoadapt.saving.restoring import restore
from autoadapt.saving.results import Saved

__all__ = ["Saved", "restore", "save"]
