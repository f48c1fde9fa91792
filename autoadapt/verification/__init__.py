"""Verification: whether a module really keeps a signature, shown by running it."""

from autoadapt.verification.reports import Check, Verification
from autoadapt.verification.verifying import verify

__all__ = ["Check", "Verification", "verify"]
