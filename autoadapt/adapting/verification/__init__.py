"""Verification: whether a module really keeps a signature, shown by running it."""

from autoadapt.adapting.verification.reports import Check, Verification
from autoadapt.adapting.verification.verifying import verify

__all__ = ["Check", "Verification", "verify"]
