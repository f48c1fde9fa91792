"""Swap a backbone: `adapt(new, like=old)` speaks the old one's output signature exactly, at every input size."""

from autoadapt.adapting import adapt
from autoadapt.building import AdaptedModule, build, param_groups
from autoadapt.capturing import capture
from autoadapt.dims import Dim
from autoadapt.errors import (
    AdaptError,
    AssemblyError,
    BuildError,
    CalibrationError,
    CaptureError,
    MatchError,
    Mismatch,
    PlanError,
    SignatureError,
    SourceError,
    SwapError,
    TransferError,
    VerificationError,
)
from autoadapt.planning import Plan, plan
from autoadapt.signature import Signature, TensorSpec
from autoadapt.verification import Verification, verify

__version__ = "0.1.0"

__all__ = [
    "AdaptError",
    "AdaptedModule",
    "AssemblyError",
    "BuildError",
    "CalibrationError",
    "CaptureError",
    "Dim",
    "MatchError",
    "Mismatch",
    "Plan",
    "PlanError",
    "Signature",
    "SignatureError",
    "SourceError",
    "SwapError",
    "TensorSpec",
    "TransferError",
    "Verification",
    "VerificationError",
    "adapt",
    "build",
    "capture",
    "param_groups",
    "plan",
    "verify",
]
