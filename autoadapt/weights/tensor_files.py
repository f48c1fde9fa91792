"""Tensor files: tensors on disk, read one at a time, and never by running what a file says."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from autoadapt.errors import Mismatch, SourceError, nearest
from autoadapt.files.reading import one_line
from autoadapt.weights.memory import PIECE_BYTES, Bytes
from autoadapt.weights.shard_indexes import check_shards, damaged, read_index
from autoadapt.weights.tensor_specs import Spec

_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_IN_FOLDERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MOST_TENSORS = 150_000
"""In one checkpoint: the names of each are compared with those of a model. The largest models hold 90,000."""

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "U16": "uint16", "U32": "uint32", "U64": "uint64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
Read: TypeAlias = Callable[[str], Iterator[Bytes]]
"""Takes the name of a tensor, gives its bytes in pieces; each is good until the next is asked for."""


class Tensors(Protocol):
    """Tensors by name, whose values are read one at a time."""

    def reader(self) -> AbstractContextManager[Read]:
        """What reads values; each thread needs one of its own."""


def read_block(read: Read, spec: Spec, offsets: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """A block of a tensor; where it is some of its rows, no more than these are kept in memory."""
    if tuple(sizes[1:]) != spec.shape[1:] or not spec.shape:
        whole = read_whole(read, spec)
        return whole[tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))]
    dtype = getattr(torch, spec.dtype)
    row = math.prod(spec.shape[1:]) * dtype.itemsize
    first, last, at = offsets[0] * row, (offsets[0] + sizes[0]) * row, 0
    if first == last:
        return torch.empty(tuple(sizes), dtype=dtype)
    block = np.empty(last - first, np.uint8)
    for piece in read(spec.name):
        start, stop = max(first, at), min(last, at + piece.size)
        if start < stop:
            block[start - first : stop - first] = piece[start - at : stop - at]
        at += piece.size
    return torch.from_numpy(block).view(dtype).reshape(tuple(sizes))


def read_whole(read: Read, spec: Spec) -> Tensor:
    """All values of a tensor at once."""
    dtype = getattr(torch, spec.dtype)
    whole = np.empty(spec.numel * dtype.itemsize, np.uint8)
    start = 0
    for piece in read(spec.name):
        whole[start : start + piece.size] = piece
        start += piece.size
    return torch.from_numpy(whole).view(dtype).reshape(spec.shape)


def find_file(path: Path) -> Path:
    """The file that a path means: itself, with a usual ending, or the weights in a folder.

    Raises:
        SourceError: If there is none, with the paths tried.
    """
    path = path.expanduser()
    tried = [path / name for name in _IN_FOLDERS] if os.path.isdir(path) else [path]
    if not os.path.isdir(path) and path.suffix not in _ENDINGS:
        tried += [path.with_name(path.name + ending) for ending in _ENDINGS]
    found = next((candidate for candidate in tried if os.path.isfile(candidate)), None)
    if found is None:
        raise SourceError("there is no such file", [_missing(path, tried)])
    return found


def _missing(path: Path, tried: list[Path]) -> Mismatch:
    if os.path.isdir(path) and any(path.rglob("*zero_pp_rank_*")):
        remedy = f"python zero_to_fp32.py {path} {path}      DeepSpeed lays the script beside the checkpoint"
        return Mismatch(str(path), "a file of whole weights", "shards of DeepSpeed ZeRO", remedy)
    folder = path if os.path.isdir(path) else path.parent
    entries = sorted(folder.iterdir()) if os.path.isdir(folder) else []
    present = [entry.name for entry in entries if entry.name.endswith(_ENDINGS)]
    if present and all(name.startswith("adapter_model.") for name in present):
        remedy = 'transfer({**base, **adapter}, model, merge={"lora": ...})      states of both'
        return Mismatch(str(path), "a file of weights", f"an adapter alone, {present[0]}", remedy)
    close = nearest(path.name, present) or present[:3]
    remedy = "\n".join(str(folder / name) for name in close) or "check the path and the working folder"
    return Mismatch(str(path), "a file of weights", "none of\n" + "\n".join(map(str, tried)), remedy)


def open_shards(path: Path) -> Shards | None:
    """A safetensors file or a sharded index of such; nothing if it is of another format.

    Raises:
        SourceError: If the file or a shard is damaged or missing.
    """
    if path.name.endswith(".json"):
        named = read_index(path)
        if not all(map(_is_safetensors, named)):
            return None
        places = {file: _places(file) for file in named}
        check_shards(path, named, {file: [place.spec.name for place in found] for file, found in places.items()})
        return Shards(itertools.chain.from_iterable(places.values()))
    return Shards(_places(path)) if _is_safetensors(path) else None


def _is_safetensors(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        fault = Mismatch(str(path), "a file of weights", one_line(error))
        raise SourceError(f"{path} cannot be read", [fault]) from error
    return head[8:9] == b"{" or path.suffix == ".safetensors"


@dataclass(frozen=True)
class _Version:
    """A file as it was when its header was read."""

    path: Path
    stamp: tuple[int, ...]


def stamp_of(found: os.stat_result) -> tuple[int, ...]:
    """What is another once a file is replaced or written to."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class _Place:
    """Where the bytes of a tensor lie."""

    file: _Version
    spec: Spec
    start: int
    stop: int


class Shards:
    """Tensors in safetensors files."""

    def __init__(self, places: Iterable[_Place]) -> None:
        self._places = {place.spec.name: place for place in places}

    def specs(self) -> list[Spec]:
        """Facts of all tensors, in the order of the files."""
        return [place.spec for place in self._places.values()]

    def reader(self) -> closing[_Reader]:
        """What reads values; each thread needs one of its own."""
        return closing(_Reader(self._places))


def _read_at(file: io.FileIO, piece: Bytes, start: int) -> int:
    """Fill a piece of memory from a place in a file; in one call of the system where there is one."""
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [piece.data], start)
    file.seek(start)
    return file.readinto(piece.data)


class _Reader:
    """Reads tensors into a buffer that stays in the processor's cache.

    Mapped files would be counted as memory of the process, page by page as they are read.
    """

    def __init__(self, places: Mapping[str, _Place]) -> None:
        self._places = places
        # A whole number of pages: where memory starts elsewhere, systems copy at half the speed.
        self._buffer: Bytes = np.frombuffer(mmap(-1, PIECE_BYTES), np.uint8)
        self._version: _Version | None = None
        self._file: io.FileIO

    def __call__(self, name: str) -> Iterator[Bytes]:
        place = self._places[name]
        file = self._open(place.file)
        whole = True
        for start in range(place.start, place.stop, PIECE_BYTES):
            piece = self._buffer[: place.stop - start]
            whole = _read_at(file, piece, start) == piece.size
            if not whole:
                break
            yield piece
        if not whole or stamp_of(os.fstat(file.fileno())) != place.file.stamp:
            raise OSError(f"{place.file.path.name} was changed after its header was read")

    def _open(self, version: _Version) -> io.FileIO:
        if version is not self._version:
            self.close()
            self._version, self._file = version, io.FileIO(version.path)
        return self._file

    def close(self) -> None:
        if self._version is not None:
            self._file.close()


def _places(file: Path) -> list[_Place]:
    try:
        with safe_open(file, "pt"):  # checks the whole header: sizes, overlaps, the end of the file
            version = _Version(file, stamp_of(file.stat()))
            return sorted(_read_header(version), key=lambda place: place.start)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError("the file is damaged", [damaged(file, "safetensors", error)]) from error


def _read_header(version: _Version) -> Iterator[_Place]:
    """The entries of a header: eight bytes of length, then JSON; offsets count from its end."""
    with version.path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    if len(header) > MOST_TENSORS:
        fault = Mismatch(str(version.path), f"at most {MOST_TENSORS:,} tensors", f"{len(header):,}")
        raise SourceError("a file holds more tensors than any model", [fault])
    for name, entry in header.items():
        if name != "__metadata__":
            spec = Spec(name, tuple(entry["shape"]), _DTYPES.get(entry["dtype"], entry["dtype"]))
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            yield _Place(version, spec, start, stop)
