"""Verification: checks that run a module and compare it with a signature."""

from autoadapt.adapting.verification.results import Check, Verification
from autoadapt.adapting.verification.verifying import verify, verify_step

__all__ = ["Check", "Verification", "verify", "verify_step"]
