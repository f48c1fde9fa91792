"""Verification: whether a module really keeps a signature, shown by running it."""

from autoadapt.adapting.verification.results import Check, Verification
from autoadapt.adapting.verification.verifying import verify, verify_step

__all__ = ["Check", "Verification", "verify", "verify_step"]
