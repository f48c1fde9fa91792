"""The list of all checks, by the names that they have in the report, in its order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autoadapt.adapting.verification.call_checks import calls
from autoadapt.adapting.verification.compiler_checks import compiled, exported
from autoadapt.adapting.verification.contract_checks import cells_in_place, plan_follows, signature_again
from autoadapt.adapting.verification.copy_checks import copies
from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.mask_checks import masks_hide
from autoadapt.adapting.verification.precision_checks import autocast, bfloat16, channels_last, float16
from autoadapt.adapting.verification.sessions import Session
from autoadapt.adapting.verification.size_checks import sizes_and_batches
from autoadapt.adapting.verification.training_checks import checkpointing, gradients, training

CHECKS: Mapping[str, Callable[[Session], Findings]] = {
    "signature": signature_again,
    "plan": plan_follows,
    "centres": cells_in_place,
    "sizes": sizes_and_batches,
    "calls": calls,
    "train mode": training,
    "gradients": gradients,
    "bfloat16": bfloat16,
    "float16": float16,
    "autocast": autocast,
    "deepcopy, pickle": copies,
    "channels_last": channels_last,
    "checkpointing": checkpointing,
}
MASK_CHECKS: Mapping[str, Callable[[Session], Findings]] = {"masks": masks_hide}
"""Further checks, of modules whose contract has masks."""
THOROUGH_CHECKS: Mapping[str, Callable[[Session], Findings]] = {
    "compile": compiled,
    "export": exported,
}
"""Checks that run with `verify(..., thorough=True)`, in a process of their own."""
WITHOUT_VALUES = frozenset({"signature", "plan", "sizes"})
"""Checks that also work for a module on the meta device."""
