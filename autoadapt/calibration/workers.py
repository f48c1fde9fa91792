"""Workers: sums over the processes of `torch.distributed`; the only file that knows them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
import torch.distributed as dist

from autoadapt.calibration.moments import Moments
from autoadapt.errors import CalibrationError, Mismatch

__all__ = ["combined", "count", "gathered", "number", "summed", "together", "total"]

Key = TypeVar("Key")
Value = TypeVar("Value")


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Which of them this is."""
    return dist.get_rank() if count() > 1 else 0


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on the device that it came from."""
    if count() == 1:
        return tensor
    shared = tensor.detach().clone().to(_device())
    dist.all_reduce(shared)
    return shared.to(tensor.device)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What every process does by itself; where one fails, all do.

    Raises:
        CalibrationError: Another process failed.
    """
    failed = True
    try:
        yield
        failed = False
    finally:
        failures = float(total(torch.tensor([float(failed)], dtype=torch.float64)))
    if failures:
        fault = Mismatch("workers", "every one to end its pass", f"{failures:.0f} failed", "see their errors")
        raise CalibrationError("another worker failed", [fault])


def combined(moments: Moments) -> Moments:
    """Moments of the tokens of all processes: moved to the common mean first, then summed."""
    if count() == 1:
        return moments
    counted = summed(moments.count)
    if not counted:
        return moments
    mean_x_C = total(moments.count * moments.mean_x_C) / counted
    mean_y_D = total(moments.count * moments.mean_y_D) / counted
    step_x_C, step_y_D = moments.mean_x_C - mean_x_C, moments.mean_y_D - mean_y_D
    return Moments(
        counted,
        mean_x_C,
        mean_y_D,
        total(moments.xx_CC + moments.count * torch.outer(step_x_C, step_x_C)),
        total(moments.xy_CD + moments.count * torch.outer(step_x_C, step_y_D)),
        total(moments.yy_D + moments.count * step_y_D.square()),
    )


def summed(number: int) -> int:
    """The sum of a number over all processes."""
    return int(total(torch.tensor([number], dtype=torch.float64)))


def gathered(values: Mapping[Key, Value]) -> dict[Key, Value]:
    """The mappings of all processes as one."""
    if count() == 1:
        return dict(values)
    parts: list[dict[Key, Value] | None] = [None] * count()
    dist.all_gather_object(parts, dict(values))
    return {key: value for part in parts if part is not None for key, value in part.items()}


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
