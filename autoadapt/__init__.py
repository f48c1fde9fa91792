"""Swap a backbone: `adapt(new, like=old)` speaks the old one's output signature exactly, at every input size."""

from autoadapt.adapting import adapt
from autoadapt.adapting.building import AdaptedModule, build, param_groups
from autoadapt.adapting.planning import Plan, plan
from autoadapt.adapting.verification import Verification, verify
from autoadapt.assembly import assemble, describe, register
from autoadapt.calibration import Calibration, calibrate
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Signature, TensorSpec
from autoadapt.errors import (
    AdaptError,
    AssemblyError,
    BuildError,
    CalibrationError,
    CaptureError,
    ExportError,
    MatchError,
    Mismatch,
    PlanError,
    RankingError,
    SavingError,
    SignatureError,
    SourceError,
    SwapError,
    TransferError,
    VerificationError,
)
from autoadapt.ranking import Ranking, rank
from autoadapt.reports import write_html
from autoadapt.saving import Saved, restore, save
from autoadapt.saving.exporting import Exported, dynamic_shapes, export
from autoadapt.saving.standalone import to_source
from autoadapt.sources import list_models, load
from autoadapt.swapping import Swap, swap
from autoadapt.swapping.folding import fold
from autoadapt.versions import VERSION
from autoadapt.weights import Transfer, transfer

__version__ = VERSION

__all__ = [
    "AdaptError",
    "AdaptedModule",
    "AssemblyError",
    "BuildError",
    "Calibration",
    "CalibrationError",
    "CaptureError",
    "Dim",
    "ExportError",
    "Exported",
    "MatchError",
    "Mismatch",
    "Plan",
    "PlanError",
    "Ranking",
    "RankingError",
    "Saved",
    "SavingError",
    "Signature",
    "SignatureError",
    "SourceError",
    "Swap",
    "SwapError",
    "TensorSpec",
    "Transfer",
    "TransferError",
    "Verification",
    "VerificationError",
    "adapt",
    "assemble",
    "build",
    "calibrate",
    "capture",
    "describe",
    "dynamic_shapes",
    "export",
    "fold",
    "list_models",
    "load",
    "param_groups",
    "plan",
    "rank",
    "register",
    "restore",
    "save",
    "swap",
    "to_source",
    "transfer",
    "verify",
    "write_html",
]
