"""Writing: tensors copied into the model, each compared bit for bit, and all put back if one differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoadapt.errors import AdaptError, Mismatch, TransferError
from autoadapt.weights.conversions import Conversion, convert
from autoadapt.weights.files import Piece, Tensors
from autoadapt.weights.slots import Slot
from autoadapt.weights.specs import Spec

__all__ = ["UNDO_BYTES", "Move", "Written", "same_values", "write"]

UNDO_BYTES = 512 << 20
"""Up to this size the old values are kept until the last tensor is compared.

Above it they are not: it would double the memory of a large model, and writing them to a disk takes
ten times as long as the load. A failure after the first write, which every check before it is there
to prevent, then says that the model has to be built anew.
"""


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


@dataclass(frozen=True)
class Written:
    """What was seen while writing: tensors compared, and sources that hold NaN or infinity."""

    compared: int
    nonfinite: tuple[str, ...]


def write(moves: Sequence[Move], tensors: Tensors) -> Written:
    """Carry out all moves, or none.

    Raises:
        TransferError: If a tensor cannot be read or differs from its source after the copy.
    """
    undo: list[tuple[Tensor, Tensor]] = []
    keep = sum(move.slot.tensor.nbytes for move in moves) <= UNDO_BYTES
    nonfinite = []
    move = moves[0]
    try:
        with torch.no_grad():
            for move in moves:
                if not _write_one(move, tensors, undo if keep else None):
                    nonfinite.append(move.source.name)
    except BaseException as error:
        _restore(undo)
        if not isinstance(error, Exception):
            raise
        raise _failure(move, error, keep) from error
    return Written(len(moves), tuple(nonfinite))


def _restore(undo: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for place, old in reversed(undo):
            place.copy_(old)


def _failure(move: Move, error: Exception, kept: bool) -> TransferError:
    state = "the model is as it was" if kept else "the model is half loaded: build it anew"
    if isinstance(error, AdaptError):
        return TransferError(f"{error.summary}; {state}", error.mismatches)
    fault = Mismatch(move.source.name, "a tensor that can be read", f"{type(error).__name__}: {error}")
    return TransferError(f"a tensor could not be copied; {state}", [fault])


def _write_one(move: Move, tensors: Tensors, undo: list[tuple[Tensor, Tensor]] | None) -> bool:
    """Write one tensor; tell whether all its values are finite."""
    finite = True
    for place, piece in _blocks(move, tensors):
        values = piece.values.to(place.dtype)
        raw = piece.raw if values is piece.values and _is_plain(place) else None
        if undo is not None:
            undo.append((place, place.clone()))
        _copy(place, values, raw)
        if not (_same_bits(place, values) if raw is None else raw == _memory(place)):
            fault = Mismatch(move.slot.spec.name, f"the bits of {move.source.name}", _unlike(place, values))
            raise TransferError("a tensor differs from its source after the copy", [fault])
        finite = finite and _finite(values)
    torch.autograd.graph.increment_version(move.slot.tensor)
    return finite


def _blocks(move: Move, tensors: Tensors) -> Iterator[tuple[Tensor, Piece]]:
    """Places in the model and the values that belong there, block by block."""
    target, start = move.slot.tensor, 0
    if move.conversion is None and target.is_contiguous():
        flat = target.view(-1)
        for piece in tensors.pieces(move.source.name):
            stop = start + piece.values.numel()
            yield flat[start:stop], piece
            start = stop
        return
    whole = read_whole(tensors, move.source)
    if move.conversion is None:
        yield target, Piece(whole)
    else:
        region = target[tuple(slice(size) for size in move.conversion.region)]
        yield region, Piece(convert(whole, move.conversion, tuple(target.shape)))


def read_whole(tensors: Tensors, spec: Spec) -> Tensor:
    """All values of a tensor at once."""
    pieces = [piece.values.clone() for piece in tensors.pieces(spec.name)]
    return torch.cat(pieces).reshape(spec.shape) if pieces else torch.empty(spec.shape)


def _is_plain(place: Tensor) -> bool:
    return place.device.type == "cpu" and place.is_contiguous()


def _memory(place: Tensor) -> memoryview:
    """The bytes of a tensor in main memory, to read and to write."""
    return place.view(torch.uint8).numpy().data


def _copy(place: Tensor, values: Tensor, raw: bytearray | None) -> None:
    if raw is None:
        place.copy_(values)
    else:
        _memory(place)[:] = raw  # one thread keeps the bytes in its cache, where they are compared next


def _same_bits(place: Tensor, values: Tensor) -> bool:
    return torch.equal(_bits(place), _bits(values))


def _bits(tensor: Tensor) -> Tensor:
    """The bits of a tensor as integers, as wide as its size and place in memory allow."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    for wide in (torch.int64, torch.int32, torch.int16):
        if flat.nbytes % wide.itemsize == 0 and flat.storage_offset() * flat.itemsize % wide.itemsize == 0:
            return flat.view(torch.uint8).view(wide) if flat.itemsize > wide.itemsize else flat.view(wide)
    return flat.view(torch.uint8)


def _unlike(place: Tensor, values: Tensor) -> str:
    different = int((_bits(place) != _bits(values)).sum())
    return f"{different} words of {place.numel()} elements differ"


def _finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; a sum is a cheap first look."""
    if not (values.is_floating_point() or values.is_complex()):
        return True
    values = values.float() if values.itemsize == 1 else values
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def same_values(tensors: Tensors, first: Spec, second: Spec) -> bool:
    """Whether two tensors of a checkpoint hold the same bits."""
    a, b = read_whole(tensors, first), read_whole(tensors, second)
    return a.dtype == b.dtype and _same_bits(a, b)
