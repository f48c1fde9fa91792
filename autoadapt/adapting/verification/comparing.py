"""Comparing: whether the values of two runs are the same, and what is wrong with those of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch

from autoadapt.adapting.verification.sessions import Session
from autoadapt.errors import Mismatch

__all__ = ["TRIES", "Leaves", "close", "differing", "distance", "no_numbers", "not_excused"]

Leaves: TypeAlias = Mapping[str, torch.Tensor]
NAN = "NaN"
_TOLERANCE = 1e-3
"""Of the largest value: what another order of sums may change."""


TRIES = 3
"""How often a bare backbone may show a fault that it is blamed for: random numbers may be alike once."""


def not_excused(session: Session, faults: Sequence[Mismatch], bare: Callable[[], Iterable[Mismatch]]) -> list[Mismatch]:
    """The faults that the bare backbone does not show in any of a few runs, and NaN, which nobody can use.

    The others are noted in the session as its own.
    """
    left = list(faults)
    for _ in range(TRIES):
        shown = {fault.found for fault in bare()} - {NAN} if {fault.found for fault in left} - {NAN} else set()
        session.blamed += [fault.where for fault in left if fault.found in shown]
        left = [fault for fault in left if fault.found not in shown]
    return left


def differing(session: Session, expected: Leaves, found: Leaves, where: str, wanted: str, got: str) -> list[Mismatch]:
    """The outputs that are not those of another run, in given words."""
    tolerance = max([_TOLERANCE, *(4 * torch.finfo(dtype).eps for dtype in session.dtypes)])
    same = {path: close(tensor, found[path], tolerance) for path, tensor in expected.items()}
    return [Mismatch(f"{path} {where}", wanted, got) for path in expected if not same[path]]


def close(expected: torch.Tensor, found: torch.Tensor, tolerance: float = _TOLERANCE) -> bool:
    """Equal up to rounding; of whole numbers a few may differ, which rounding has tipped over.

    Args:
        expected: An output of one run.
        found: The same of another run.
        tolerance: How far values may lie from each other, as a part of them and of the largest value.
    """
    if expected.shape != found.shape:
        return False
    if expected.numel() == 0 or expected.is_complex():
        return True
    if not expected.is_floating_point():
        return float((expected != found).double().mean()) <= 0.02
    if expected.dtype is torch.float32 is found.dtype and _are_near(expected.detach(), found.detach(), tolerance):
        return True
    values = expected.detach().double()
    scale = float(values.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(values, found.detach().double(), rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _are_near(expected: torch.Tensor, found: torch.Tensor, tolerance: float) -> bool:
    """Whether values are as close as the largest one asks, without NaN and infinity; quick, and nearly always so."""
    scale = torch.stack(torch.aminmax(expected)).abs().max()
    return bool((expected - found).abs_().max() <= tolerance * scale) and bool(scale.isfinite())


def distance(expected: torch.Tensor, found: torch.Tensor) -> float:
    """How far an output lies from another one, as a part of its length; 0 where either is not finite."""
    values, other = expected.detach().double(), found.detach().double()
    if not bool(values.isfinite().all() and other.isfinite().all()):
        return 0.0
    return float((other - values).norm() / values.norm().clamp_min(1e-6))


def no_numbers(session: Session, leaves: Leaves, where: str = "") -> list[Mismatch]:
    """Outputs of features that hold NaN or infinity, unless those of the module that made the contract did."""
    known = session.signature.not_finite
    outputs = session.signature.outputs.items()
    paths = [path for path, spec in outputs if spec.is_floating and spec.role == "feature" and path not in known]
    return [Mismatch(path + where, "numbers", one) for path in paths for one in _no_number(leaves[path].detach())]


def _no_number(tensor: torch.Tensor) -> Iterator[str]:
    if bool(tensor.sum().isfinite()):  # quick; a sum of large numbers may be infinite
        return
    if bool(tensor.isnan().any()):
        yield NAN
    elif not bool(tensor.isfinite().all()):
        yield "infinity"
