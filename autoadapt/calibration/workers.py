"""Workers: the processes of `torch.distributed`, and sums over them; the only file that knows them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import TypeVar

import torch
import torch.distributed as dist

from autoadapt.calibration.moments import Moments
from autoadapt.errors import CalibrationError, Mismatch
from autoadapt.files.reading import first_line

Key = TypeVar("Key")
Value = TypeVar("Value")
Unit = TypeVar("Unit")

_IS_TOGETHER: ContextVar[bool] = ContextVar("is_together", default=False)


class _OthersEndedError(Exception):
    """Another process failed, or is gone; no error of a model or of data, so that nobody takes it for one."""

    def __init__(self, error: CalibrationError) -> None:
        super().__init__(str(error))
        self.error = error


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Which of them this is."""
    return dist.get_rank() if count() > 1 else 0


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on the device that it came from."""
    return totals([tensor])[0]


def totals(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The sums of several tensors."""
    all_are_well()
    return [tensor if count() == 1 else _reduced(tensor) for tensor in tensors]


def all_are_well() -> None:
    """What comes before every exchange, so that a process that failed is heard at the next one, whatever that is."""
    if count() > 1:
        _tell(failed=False)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What every process does by itself, with exchanges in it; where one fails or dies, all fail.

    One inside another only hears at its end whether all are well: what failed is told once, by the outermost.

    Raises:
        CalibrationError: Another process failed, or is gone.
    """
    if _IS_TOGETHER.get():
        yield
        all_are_well()
        return
    token = _IS_TOGETHER.set(True)
    try:
        yield
        all_are_well()
    except _OthersEndedError as ended:
        raise ended.error from ended.__cause__
    except BaseException:
        if count() > 1:
            with contextlib.suppress(_OthersEndedError):
                _tell(failed=True)
        raise
    finally:
        _IS_TOGETHER.reset(token)


def in_step(units: Iterable[Unit]) -> Iterator[tuple[Unit, bool]]:
    """Units of work that no process does alone, and whether each is one's own.

    Where one process has none left, it does its last again for the others' sake; its first may be another's.
    """
    own = iter(units)
    unit = next(own, None)
    first = gathered({} if unit is None else {number(): unit})
    last = unit if unit is not None else next(iter(first.values()), None)
    while summed(unit is not None) and last is not None:
        yield last, unit is not None
        unit = next(own, None)
        last = last if unit is None else unit


def combined(moments: Moments) -> Moments:
    """Moments of the tokens of all processes: moved to the common mean first, then summed."""
    if count() == 1:
        return moments
    counted = summed(moments.count)
    if not counted:
        return moments
    sums = totals([moments.count * moments.mean_x_C, moments.count * moments.mean_y_D])
    mean_x_C, mean_y_D = (one / counted for one in sums)
    step_x_C, step_y_D = moments.mean_x_C - mean_x_C, moments.mean_y_D - mean_y_D
    xx_CC, xy_CD, yy = totals(
        [
            moments.xx_CC + moments.count * torch.outer(step_x_C, step_x_C),
            moments.xy_CD + moments.count * torch.outer(step_x_C, step_y_D),
            moments.yy + moments.count * moments.squares(step_y_D[None]),
        ]
    )
    return Moments(counted, mean_x_C, mean_y_D, xx_CC, xy_CD, yy)


def summed(number: int) -> int:
    """The sum of a number over all processes."""
    return int(total(torch.tensor([number], dtype=torch.float64)))


def gathered(values: Mapping[Key, Value]) -> dict[Key, Value]:
    """The mappings of all processes as one."""
    if count() == 1:
        return dict(values)
    all_are_well()
    parts: list[dict[Key, Value] | None] = [None] * count()
    with _answered():
        dist.all_gather_object(parts, dict(values))
    return {key: value for part in parts if part is not None for key, value in part.items()}


def _tell(*, failed: bool) -> None:
    """Say whether this process goes on, and hear whether all do."""
    failures = float(_reduced(torch.tensor([float(failed)], dtype=torch.float64)))
    if failures and not failed:
        fault = Mismatch("processes", "every one to end its pass", f"{failures:.0f} failed", "see their errors")
        raise _OthersEndedError(CalibrationError("another process failed", [fault]))


def _reduced(tensor: torch.Tensor) -> torch.Tensor:
    shared = tensor.detach().clone().to(_device())
    with _answered():
        dist.all_reduce(shared)
    return shared.to(tensor.device)


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """An exchange, which a process that is gone does not answer."""
    try:
        yield
    except RuntimeError as error:  # as torch.distributed says that a connection is closed, or that time is up
        remedy = "start all of them again; with state= what was counted stays counted"
        fault = Mismatch("processes", f"an answer of all {count()} processes", first_line(error), remedy)
        raise _OthersEndedError(CalibrationError("another process is gone", [fault])) from error


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
