"""Distributed checkpoints: folders that torch.distributed.checkpoint writes, one file of shards a rank.

Their table of contents is a pickle. It is read by an unpickler that knows the few classes that such a table holds
and makes inert records of them: nothing that the file names is imported or called.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoadapt.errors import Mismatch, SourceError
from autoadapt.files.reading import MOST_BYTES, hindrance, one_line
from autoadapt.weights.memory import Bytes, pieces_of
from autoadapt.weights.tensor_files import Read, stamp_of
from autoadapt.weights.tensor_specs import Spec

_METADATA = ".metadata"
_LONGEST_PATH = 4096
_RECORDS = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
}


class _ForeignName(pickle.UnpicklingError):
    """A name that no table of contents holds."""


class _Record:
    """What a pickled object said of itself: never more than data."""

    state: Any = None

    def __init__(self, *said: object) -> None:
        self.said = said

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __getitem__(self, field: str) -> Any:
        return self.state.get(field) if isinstance(self.state, dict) else None


def _text(*parts: object) -> str:
    text = "/".join(map(str, parts))
    if len(text) > _LONGEST_PATH:  # what is made of itself again and again has no end
        raise ValueError("a path of too many letters")
    return text


def _sizes(sizes: object = ()) -> tuple[int, ...]:
    if not isinstance(sizes, list | tuple) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("sizes that are no numbers")
    return tuple(sizes)


class _Unpickler(pickle.Unpickler):
    """Knows tables of contents, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        found = getattr(torch, name, None) if module == "torch" else None
        match module, name:
            case "torch", "Size":
                return _sizes
            case "torch", _ if isinstance(found, torch.dtype):
                return found
            case "torch.serialization", "_get_layout":
                return _text
            case "pathlib" | "pathlib._local", "PosixPath" | "WindowsPath" | "PurePosixPath" | "PureWindowsPath":
                return _text
            case "collections", "OrderedDict":
                return OrderedDict
        if name in _RECORDS.get(module, ()):
            return _Record
        raise _ForeignName(f"{module}.{name}")


@dataclass(frozen=True)
class _Chunk:
    """A block of a tensor, and where its bytes lie."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    length: int
    stamp: tuple[int, ...]


class Sharded:
    """Tensors in blocks, over the files of several ranks.

    Args:
        paths: Where each tensor stood in what was saved: its containers, then its key.
    """

    def __init__(
        self, specs: list[Spec], chunks: Mapping[str, list[_Chunk]], paths: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._specs, self._chunks, self.paths = specs, chunks, paths

    def specs(self) -> list[Spec]:
        """Facts of all tensors, in the order of the table."""
        return self._specs

    def renamed(self, names: Mapping[str, str]) -> Sharded:
        """Some of them, by their new names."""
        own = {spec.name: spec for spec in self._specs}
        specs = [replace(own[old], name=new) for new, old in names.items()]
        paths = {new: self.paths[old] for new, old in names.items()}
        return Sharded(specs, {new: self._chunks[old] for new, old in names.items()}, paths)

    def reader(self) -> AbstractContextManager[Read]:
        """What reads values; a block at a time where blocks are rows, so that no rank holds a whole tensor."""
        by_name = {spec.name: spec for spec in self._specs}
        return nullcontext(lambda name: self._pieces(by_name[name]))

    def _pieces(self, spec: Spec) -> Iterator[Bytes]:
        chunks = sorted(self._chunks[spec.name], key=lambda chunk: chunk.offsets)
        are_rows = all(chunk.sizes[1:] == spec.shape[1:] for chunk in chunks)
        wholes = map(_load, chunks) if are_rows else iter([_assembled(spec, chunks)])
        yield from itertools.chain.from_iterable(map(pieces_of, wholes))


def _assembled(spec: Spec, chunks: list[_Chunk]) -> Tensor:
    whole = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
    for chunk in chunks:
        block = tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))
        whole[block] = _load(chunk)
    return whole


def _load(chunk: _Chunk) -> Tensor:
    with chunk.file.open("rb") as file:
        if stamp_of(os.fstat(file.fileno())) != chunk.stamp:
            raise OSError(f"{chunk.file.name} was changed after the table of contents was read")
        file.seek(chunk.start)
        block = torch.load(io.BytesIO(file.read(chunk.length)), map_location="cpu", weights_only=True)
    if not isinstance(block, Tensor) or tuple(block.shape) != chunk.sizes:
        raise ValueError(f"{chunk.file.name} holds something else than the table of contents says")
    return block


def metadata_of(path: Path) -> Path | None:
    """The table of contents that a path means, if it means a distributed checkpoint."""
    table = path if path.name == _METADATA else path / _METADATA
    return table if os.path.isfile(table) else None


def open_sharded(table: Path) -> Sharded:
    """Read the table of contents of a distributed checkpoint.

    Raises:
        SourceError: If it names anything but what such tables hold, is damaged, or a file is missing or too short.
    """
    try:
        if said := hindrance(table, MOST_BYTES):
            raise ValueError(said)
        with table.open("rb") as file:
            content = _Unpickler(file).load()
        return _sharded(content, table.parent)
    except _ForeignName as error:
        why = "a pickle runs what it names; autoadapt runs nothing that a file says"
        fault = Mismatch(str(table), "a table of contents of torch.distributed.checkpoint", str(error), "", why)
        raise SourceError("the file needs code to load", [fault]) from error
    except SourceError:
        raise
    except Exception as error:  # an unpickler raises whatever the pickle leads it to
        found = f"{table.stat().st_size:,} bytes; {one_line(error)}"
        fault = Mismatch(str(table), "a whole table of contents", found, "copy or download it again")
        raise SourceError("the file is damaged", [fault]) from error


def _sharded(content: _Record, folder: Path) -> Sharded:
    places = {(index["fqn"], index["offset"]): info for index, info in content["storage_data"].items()}
    specs, chunks, faults = [], {}, []
    for name, entry in content["state_dict_metadata"].items():
        if entry["chunks"] is None:
            continue
        dtype = str(entry["properties"].state[0]).removeprefix("torch.")
        specs.append(Spec(name, entry["size"], dtype))
        blocks = [(chunk, places[name, chunk["offsets"]]) for chunk in entry["chunks"]]
        faults += [fault for _, info in blocks if (fault := _fault(info, folder)) is not None]
        faults += _misfits(specs[-1], blocks)
        chunks[name] = [] if faults else [_chunk(chunk, info, folder) for chunk, info in blocks]
    if faults:
        raise SourceError("files of the distributed checkpoint are missing or damaged", list(dict.fromkeys(faults)))
    paths = content["planner_data"] or {}
    return Sharded(specs, chunks, {s.name: tuple(map(str, paths.get(s.name, (s.name,)))) for s in specs})


def _chunk(chunk: _Record, info: _Record, folder: Path) -> _Chunk:
    file = folder / info["relative_path"]
    return _Chunk(chunk["offsets"], chunk["sizes"], file, info["offset"], info["length"], stamp_of(file.stat()))


def _misfits(spec: Spec, blocks: Sequence[tuple[_Record, _Record]]) -> Iterator[Mismatch]:
    """Blocks that are not as large as their tensor together, or larger than what is kept of them."""
    size = getattr(torch, spec.dtype).itemsize
    count = sum(math.prod(chunk["sizes"]) for chunk, _ in blocks)
    if count != spec.numel:
        yield Mismatch(spec.name, f"blocks of {spec.numel:,} values together", f"{count:,}")
    for chunk, info in blocks:
        if (needed := math.prod(chunk["sizes"]) * size) > info["length"]:
            yield Mismatch(spec.name, f"a block of at least {needed:,} bytes", f"{info['length']:,}")


def _fault(info: _Record, folder: Path) -> Mismatch | None:
    name = Path(info["relative_path"])
    file = folder / name
    if name.is_absolute() or ".." in name.parts:
        return Mismatch(str(folder), "files beside the table of contents", str(name))
    if info["transform_descriptors"]:
        return Mismatch(str(file), "tensors as they are", f"packed by {', '.join(info['transform_descriptors'])}")
    if not os.path.isfile(file):
        return Mismatch(str(file), "a file of shards", "no file", "copy it from the machine of its rank")
    if file.stat().st_size < info["offset"] + info["length"]:
        found = f"{file.stat().st_size:,} bytes"
        return Mismatch(str(file), "a whole file of shards", found, "copy or download it again")
    return None
