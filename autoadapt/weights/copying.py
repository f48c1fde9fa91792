"""Copying: tensors copied into the model, each compared bit for bit, and all put back if one differs.

A piece is read, copied, compared and looked at for NaN while it is in the processor's cache. The loops
over bytes are numpy's: they let another thread run, and start none of their own for every piece.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoadapt.errors import AdaptError, Mismatch, TransferError
from autoadapt.weights.conversions import Conversion, convert
from autoadapt.weights.memory import Bytes, as_bytes, as_dtype, is_finite, is_same
from autoadapt.weights.ranks import Ranks
from autoadapt.weights.slicing import Axis
from autoadapt.weights.slots import Slot
from autoadapt.weights.tensor_files import Read, Tensors, read_block, read_whole
from autoadapt.weights.tensor_specs import Spec

UNDO_BYTES = 512 << 20
"""Up to this size the old values are kept until the last tensor is compared.

Above it they are not: it would double the memory of a large model; a copy on disk, or reading the
file once more before the first write, would take longer than the load may. An interruption is then
held until the last tensor is there, so that it leaves the model loaded. A file that someone changes
meanwhile, a disk that fails, or memory that does not hold what is written to it, leaves the model
half loaded, and the error says so.
"""

_THREADS = 2  # one reads while the other copies; more would not make the memory faster


@dataclass(frozen=True)
class Move:
    """One tensor on its way: where from, where to, and how.

    Args:
        source: Facts of the tensor in the checkpoint.
        slot: Its place in the model.
        stage: How the names were brought together.
        conversion: How its shape changes; nothing where the shapes are equal.
    """

    source: Spec
    slot: Slot
    stage: str
    conversion: Conversion | None = None


def write(moves: Sequence[Move], tensors: Tensors, ranks: Ranks = Ranks()) -> list[str]:  # noqa: B008
    """Carry out all moves, or none; `UNDO_BYTES` says what that means in a large model.

    Returns:
        The names of sources that hold NaN or infinity.

    Raises:
        TransferError: If a tensor cannot be read or differs from its source after the copy.
    """
    size = sum(move.slot.tensor.nbytes for move in moves)
    undo = _Undo(size) if size <= UNDO_BYTES else None
    nonfinite: set[str] = set()
    steps = [_Step(move, _plain_memory(move)) for move in moves]
    torch.autograd.graph.increment_version([move.slot.tensor for move in moves])
    try:
        with ranks.step():
            _share(steps, lambda waiting: _work(waiting, tensors, undo, nonfinite), hold=undo is None)
    except BaseException as error:
        if undo is not None:
            undo.put_back()
        if not isinstance(error, AdaptError):
            raise
        state = "the model is half loaded: build it anew" if undo is None else "the model is as it was"
        raise TransferError(f"{error.summary}; {state}", error.mismatches) from error
    nonfinite = ranks.union(nonfinite)
    return [move.source.name for move in moves if move.source.name in nonfinite]


@dataclass(frozen=True)
class _Step:
    """A move made ready: what threads would wait for each other to do.

    Args:
        move: The move.
        memory: The bytes to write to; nothing where they have gaps, or are in another memory, or the
            values are converted.
    """

    move: Move
    memory: Bytes | None


def _plain_memory(move: Move) -> Bytes | None:
    tensor, is_whole = move.slot.tensor, move.conversion is None and move.slot.shard is None
    return as_bytes(tensor) if is_whole and tensor.device.type == "cpu" and tensor.is_contiguous() else None


class _Undo:
    """Old values, in one block of memory: many small ones would take several times as long to get."""

    def __init__(self, size: int) -> None:
        self._free: Bytes = np.empty(size, np.uint8)
        self._steps: list[Callable[[], object]] = []
        self._lock = Lock()

    def keep(self, place: Bytes) -> None:
        """Remember the bytes of a place."""
        with self._lock:
            old, self._free = self._free[: place.size], self._free[place.size :]
        np.copyto(old, place)
        self._steps.append(partial(np.copyto, place, old))

    def keep_tensor(self, place: Tensor) -> None:
        """Remember a tensor with gaps in its memory, or in another memory."""
        self._steps.append(partial(place.copy_, place.clone()))

    def put_back(self) -> None:
        """Make all as it was."""
        for step in self._steps:
            step()


def _share(steps: Sequence[_Step], work: Callable[[deque[_Step]], None], *, hold: bool) -> None:
    """Let threads work on what is waiting.

    Args:
        steps: What is waiting.
        work: Takes from it until nothing is left.
        hold: Whether an interruption is held until all is done, or ends the work. One that comes
            while the threads are being started ends it anyway, since none has begun.
    """
    waiting, all_there = deque(steps), Event()

    def begin() -> None:
        all_there.wait()
        work(waiting)

    workers: list[Future[None]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            workers.extend(pool.submit(begin) for _ in range(_THREADS))
            all_there.set()
            wait(workers)
        finally:
            if not (hold and all_there.is_set()):
                waiting.clear()
            all_there.set()
            for worker in workers:
                worker.result()


def _work(waiting: deque[_Step], tensors: Tensors, undo: _Undo | None, nonfinite: set[str]) -> None:
    """Write tensors until none is waiting; what fails in one thread ends all."""
    with tensors.reader() as read:
        writer = _Writer(read, undo)
        for step in _taken(waiting):
            try:
                if not writer.write(step):
                    nonfinite.add(step.move.source.name)
            except BaseException as error:
                waiting.clear()
                if isinstance(error, AdaptError) or not isinstance(error, Exception):
                    raise
                fault = Mismatch(step.move.source.name, "a tensor that can be read", f"{type(error).__name__}: {error}")
                raise TransferError("a tensor could not be copied", [fault]) from error


def _taken(waiting: deque[_Step]) -> Iterator[_Step]:
    while True:
        try:
            step = waiting.popleft()
        except IndexError:
            return
        yield step


@dataclass(frozen=True)
class _Writer:
    """Writes one tensor after the other; each thread has its own.

    Args:
        read: Reads the source.
        undo: Keeps old values; nothing where there are too many.
    """

    read: Read
    undo: _Undo | None

    def write(self, step: _Step) -> bool:
        """Copy a tensor and compare it; tell whether all its values are finite."""
        return self._write_whole(step.move) if step.memory is None else self._write_pieces(step.move, step.memory)

    def _write_pieces(self, move: Move, memory: Bytes) -> bool:
        start, finite = 0, True
        for piece in self.read(move.source.name):
            values = as_dtype(piece, move.source.dtype, move.slot.spec.dtype)
            place = memory[start : start + values.size]
            if self.undo is not None:
                self.undo.keep(place)
            _copy(place, values)
            if not self._look(move, place, values):
                self._refuse_overflow(move, is_finite(piece, move.source.dtype))
                finite = False
            start += values.size
        return finite

    def _write_whole(self, move: Move) -> bool:
        place, start = move.slot.tensor, move.slot.shard
        if move.conversion is None:
            values = (
                read_whole(self.read, move.source)
                if start is None
                else read_block(self.read, move.source, start, place.shape)
            )
        else:
            whole = convert(read_whole(self.read, move.source), move.conversion, move.slot.spec.shape)
            values, region, rows = _held(whole, move.conversion, start, tuple(place.shape))
            if rows:
                values = _among_old(values, place, rows)
            else:
                place = place[tuple(slice(size) for size in region)]
        exact, values = values, values.to(place.dtype)
        if self.undo is not None:
            self.undo.keep_tensor(place)
        _copy(place, values)
        finite = self._look(move, as_bytes(place), as_bytes(values))
        if not finite:
            self._refuse_overflow(move, bool(exact.isfinite().all()))
        return finite

    def _refuse_overflow(self, move: Move, was_finite: bool) -> None:
        """Refuse a parameter that is infinite only because its dtype ends before its values do.

        Where the old values are not kept, a refusal would leave the model half loaded: a remark has to do then.
        """
        if was_finite and move.slot.parameter and self.undo is not None:
            name, dtype = move.slot.spec.name, move.slot.spec.dtype
            found = f"larger ones in {move.source.name}, {move.source.dtype}"
            fault = Mismatch(name, f"values that {dtype} can hold", found, f'model.float(), or exclude=["{name}"]')
            raise TransferError("values would become infinite", [fault])

    def _look(self, move: Move, place: Bytes, values: Bytes) -> bool:
        if not is_same(place, values):
            found = f"{np.count_nonzero(place != values)} of {place.size} bytes differ"
            fault = Mismatch(move.slot.spec.name, f"the bits of {move.source.name}", found)
            raise TransferError("a tensor differs from its source after the copy", [fault])
        return is_finite(values, move.slot.spec.dtype)


def _held(
    values: Tensor, conversion: Conversion, start: tuple[int, ...] | None, shape: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...], list[Axis]]:
    """What a rank holds of converted values: them, and the leading block of its part that they fill or their rows."""
    if start is None:
        return values, conversion.region, list(conversion.rows)
    by_axis = {axis.axis: axis for axis in conversion.rows}
    rows, region = [], []
    for axis, (at, size) in enumerate(zip(start, shape, strict=True)):
        new = by_axis[axis].new if axis in by_axis else tuple(range(values.shape[axis]))
        held = [(i, row - at) for i, row in enumerate(new) if at <= row < at + size]
        values = values.index_select(axis, torch.tensor([i for i, _ in held], dtype=torch.long))
        region.append(len(held))
        if axis in by_axis:
            here = tuple(row for _, row in held)
            rows.append(Axis(axis, here, here))
    return values, tuple(region), rows


def _among_old(values: Tensor, place: Tensor, rows: Sequence[Axis]) -> Tensor:
    """Some rows of a place replaced, the others as they are."""
    whole = place.detach().cpu().clone()
    first, *others = rows
    index = torch.tensor(first.new, dtype=torch.long)
    if others:
        values = _among_old(values, whole.index_select(first.axis, index), others)
    return whole.index_copy_(first.axis, index, values.cpu().to(whole.dtype))


def _copy(place: Any, values: Any) -> None:
    if isinstance(place, Tensor):
        place.copy_(values)
    else:
        np.copyto(place, values)


def same_values(tensors: Tensors, first: Spec, second: Spec) -> bool:
    """Whether two tensors of a checkpoint hold the same bits."""
    with tensors.reader() as read:
        a, b = read_whole(read, first), read_whole(read, second)
    return a.dtype == b.dtype and np.array_equal(as_bytes(a), as_bytes(b))
