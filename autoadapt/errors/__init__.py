"""Errors: what can go wrong, and the names of strangers as text that a terminal, a page or Python only shows."""

from autoadapt.errors.exceptions import (
    AdaptError,
    AssemblyError,
    BuildError,
    CalibrationError,
    CaptureError,
    CoverageError,
    ExportError,
    InputError,
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
    nearest,
)

__all__ = [
    "AdaptError",
    "AssemblyError",
    "BuildError",
    "CalibrationError",
    "CaptureError",
    "CoverageError",
    "ExportError",
    "InputError",
    "MatchError",
    "Mismatch",
    "PlanError",
    "RankingError",
    "SavingError",
    "SignatureError",
    "SourceError",
    "SwapError",
    "TransferError",
    "VerificationError",
    "nearest",
]

for _name in __all__:
    globals()[_name].__module__ = __name__  # tracebacks show the name that is imported
del _name
