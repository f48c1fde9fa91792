"""Comparing: whether the outputs of two runs are equal up to rounding, and whether they are finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch

from autoadapt.adapting.verification.sessions import Session
from autoadapt.errors import Mismatch

Leaves: TypeAlias = Mapping[str, torch.Tensor]
"""The output tensors of a call, by path."""
NAN = "NaN"
_TOLERANCE = 1e-3
"""Difference that another order of summation may make, as a part of the largest value."""


TRIES = 3
"""How often a bare backbone is run to see whether it has a fault too: with random numbers it may miss it once."""


def not_excused(session: Session, faults: Sequence[Mismatch], bare: Callable[[], Iterable[Mismatch]]) -> list[Mismatch]:
    """The faults that the bare backbone does not have in any of a few runs; NaN is a fault even if it has.

    Args:
        session: The verification; places of the other faults are added to its `blamed`.
        faults: What a check found in the adapted module.
        bare: Runs the same check of the bare backbone.
    """
    left = list(faults)
    for _ in range(TRIES):
        shown = {fault.found for fault in bare()} - {NAN} if {fault.found for fault in left} - {NAN} else set()
        session.blamed += [fault.where for fault in left if fault.found in shown]
        left = [fault for fault in left if fault.found not in shown]
    return left


def differing(session: Session, expected: Leaves, found: Leaves, where: str, wanted: str, got: str) -> list[Mismatch]:
    """A mismatch for each output that is not close to the same output of another run.

    Args:
        session: The verification, whose dtypes set the tolerance.
        expected: Outputs of one run.
        found: Outputs of another run.
        where: Added to the path of the output.
        wanted: The mismatch's text of what was expected.
        got: The mismatch's text of what was found.
    """
    tolerance = max([_TOLERANCE, *(4 * torch.finfo(dtype).eps for dtype in session.dtypes)])
    same = {path: close(tensor, found[path], tolerance) for path, tensor in expected.items()}
    return [Mismatch(f"{path} {where}", wanted, got) for path in expected if not same[path]]


def close(expected: torch.Tensor, found: torch.Tensor, tolerance: float = _TOLERANCE) -> bool:
    """Whether values are equal up to rounding; of integers 2 % may differ, as when rounding changes an argmax.

    Args:
        expected: An output of one run.
        found: The same output of another run.
        tolerance: Largest difference, relative to each value and to the largest one.
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
    """A fast test that suffices for most tensors: all values are finite and close relative to the largest one."""
    scale = torch.stack(torch.aminmax(expected)).abs().max()
    return bool((expected - found).abs_().max() <= tolerance * scale) and bool(scale.isfinite())


def distance(expected: torch.Tensor, found: torch.Tensor) -> float:
    """The norm of the difference of two outputs, relative to that of the first; 0 where either is not finite."""
    values, other = expected.detach().double(), found.detach().double()
    if not bool(values.isfinite().all() and other.isfinite().all()):
        return 0.0
    return float((other - values).norm() / values.norm().clamp_min(1e-6))


def no_numbers(session: Session, leaves: Leaves, where: str = "") -> list[Mismatch]:
    """Feature outputs that hold NaN or infinity, unless they did in the module from which the contract was captured."""
    known = session.signature.not_finite
    outputs = session.signature.outputs.items()
    paths = [path for path, spec in outputs if spec.is_floating and spec.role == "feature" and path not in known]
    return [Mismatch(path + where, "numbers", one) for path in paths for one in _no_number(leaves[path].detach())]


def _no_number(tensor: torch.Tensor) -> Iterator[str]:
    if bool(tensor.sum().isfinite()):  # fast; else look closer, since a sum of large numbers may overflow
        return
    if bool(tensor.isnan().any()):
        yield NAN
    elif not bool(tensor.isfinite().all()):
        yield "infinity"
