"""Swap a backbone: `adapt(new, like=old)` has the old one's output signature exactly, at every input size.

The names below are imported when they are first used (PEP 562), so that `autoadapt --help` need not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autoadapt.versions import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from autoadapt.adapting import adapt
    from autoadapt.adapting.building import AdaptedModule, build, param_groups
    from autoadapt.adapting.planning import Plan, plan
    from autoadapt.adapting.verification import Verification, verify
    from autoadapt.assembly import assemble, describe, register
    from autoadapt.calibration import Calibration, Distillation, calibrate, distil
    from autoadapt.contracts.capturing import capture
    from autoadapt.contracts.dims import Dim
    from autoadapt.contracts.signature import Signature, Statistics, TensorSpec
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
    from autoadapt.showing.progress import progress
    from autoadapt.sources import list_models, load
    from autoadapt.swapping import Swap, regions, swap
    from autoadapt.swapping.folding import fold
    from autoadapt.weights import Transfer, transfer

_PLACES = {
    "AdaptError": "autoadapt.errors",
    "AdaptedModule": "autoadapt.adapting.building",
    "AssemblyError": "autoadapt.errors",
    "BuildError": "autoadapt.errors",
    "Calibration": "autoadapt.calibration",
    "CalibrationError": "autoadapt.errors",
    "CaptureError": "autoadapt.errors",
    "Dim": "autoadapt.contracts.dims",
    "Distillation": "autoadapt.calibration",
    "ExportError": "autoadapt.errors",
    "Exported": "autoadapt.saving.exporting",
    "MatchError": "autoadapt.errors",
    "Mismatch": "autoadapt.errors",
    "Plan": "autoadapt.adapting.planning",
    "PlanError": "autoadapt.errors",
    "Ranking": "autoadapt.ranking",
    "RankingError": "autoadapt.errors",
    "Saved": "autoadapt.saving",
    "SavingError": "autoadapt.errors",
    "Signature": "autoadapt.contracts.signature",
    "SignatureError": "autoadapt.errors",
    "SourceError": "autoadapt.errors",
    "Statistics": "autoadapt.contracts.signature",
    "Swap": "autoadapt.swapping",
    "SwapError": "autoadapt.errors",
    "TensorSpec": "autoadapt.contracts.signature",
    "Transfer": "autoadapt.weights",
    "TransferError": "autoadapt.errors",
    "Verification": "autoadapt.adapting.verification",
    "VerificationError": "autoadapt.errors",
    "adapt": "autoadapt.adapting",
    "assemble": "autoadapt.assembly",
    "build": "autoadapt.adapting.building",
    "calibrate": "autoadapt.calibration",
    "capture": "autoadapt.contracts.capturing",
    "describe": "autoadapt.assembly",
    "distil": "autoadapt.calibration",
    "dynamic_shapes": "autoadapt.saving.exporting",
    "export": "autoadapt.saving.exporting",
    "fold": "autoadapt.swapping.folding",
    "list_models": "autoadapt.sources",
    "load": "autoadapt.sources",
    "param_groups": "autoadapt.adapting.building",
    "plan": "autoadapt.adapting.planning",
    "progress": "autoadapt.showing.progress",
    "rank": "autoadapt.ranking",
    "regions": "autoadapt.swapping",
    "register": "autoadapt.assembly",
    "restore": "autoadapt.saving",
    "save": "autoadapt.saving",
    "swap": "autoadapt.swapping",
    "to_source": "autoadapt.saving.standalone",
    "transfer": "autoadapt.weights",
    "verify": "autoadapt.adapting.verification",
    "write_html": "autoadapt.reports",
}
"""Which module each name comes from."""

__all__ = [
    "AdaptError",
    "AdaptedModule",
    "AssemblyError",
    "BuildError",
    "Calibration",
    "CalibrationError",
    "CaptureError",
    "Dim",
    "Distillation",
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
    "Statistics",
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
    "distil",
    "dynamic_shapes",
    "export",
    "fold",
    "list_models",
    "load",
    "param_groups",
    "plan",
    "progress",
    "rank",
    "regions",
    "register",
    "restore",
    "save",
    "swap",
    "to_source",
    "transfer",
    "verify",
    "write_html",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'autoadapt' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})
