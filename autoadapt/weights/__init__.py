"""Weights: partial loading that says what it did."""

from autoadapt.weights.command import transfer_command
from autoadapt.weights.conversions import POLICIES
from autoadapt.weights.dialects import DIALECTS, Dialect, Rule
from autoadapt.weights.entries import ModelEntry, SourceEntry
from autoadapt.weights.results import Transfer
from autoadapt.weights.transferring import transfer

__all__ = [
    "DIALECTS",
    "POLICIES",
    "Dialect",
    "ModelEntry",
    "Rule",
    "SourceEntry",
    "Transfer",
    "transfer",
    "transfer_command",
]
