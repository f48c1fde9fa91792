"""Pickles: what a PyTorch file holds, read without running what it names."""

from __future__ import annotations

import contextlib
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoadapt.errors import AdaptError, Mismatch, SourceError
from autoadapt.weights.shard_indexes import check_shards, damaged, read_index


def load_pickle(path: Path) -> Any:
    """What a PyTorch file holds, read with `weights_only`: tensors and plain containers.

    Raises:
        SourceError: If the file needs code to load, is damaged, or is something else.
    """
    if path.name.endswith(".json"):
        named = read_index(path)
        parts = {file: load_pickle(file) for file in named}
        check_shards(path, named, {file: [*_tensors(part)] for file, part in parts.items()})
        return {name: tensor for part in parts.values() for name, tensor in _tensors(part).items()}
    try:
        return _loaded(path)
    except AdaptError:
        raise
    except Exception as error:  # zipfile, pickletools and torch raise almost anything where bytes are missing or wrong
        raise SourceError("the file is damaged", [damaged(path, "PyTorch", error)]) from error


def _loaded(path: Path) -> Any:
    _refuse_text(path)
    mapped = zipfile.is_zipfile(path)
    if mapped:
        _check_archive(path)
    _refuse_byte_arrays(path)
    try:
        with _without_hints():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error


_NEWEST_PROTOCOL = 3


@contextmanager
def _without_hints() -> Iterator[None]:
    """Without torch's warnings that a pickle's protocol may not be read, and that nested tensors are new.

    If it is not read, an error says so; nested tensors are not loaded.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        yield


_EXPORT = 'torch.save(model.state_dict(), "weights.pth")      where the file was made'


def _tensors(part: Any) -> dict[str, Tensor]:
    """The tensors of a shard."""
    named = part.items() if isinstance(part, Mapping) else ()
    return {name: value for name, value in named if isinstance(value, Tensor)}


def _refuse_byte_arrays(path: Path) -> None:
    """Refuse byte arrays, which `weights_only` makes of any length that a pickle asks for."""
    with path.open("rb") as file:
        kept = b""
        while block := file.read(1 << 20):
            if any(name in kept + block for name in _BYTE_ARRAYS):
                fault = Mismatch(str(path), "tensors and plain containers", "a byte array", _EXPORT)
                raise SourceError("the file holds what is no weight", [fault])
            kept = block[-40:]


_BYTE_ARRAYS = (b"c__builtin__\nbytearray\n", b"cbuiltins\nbytearray\n")


def _refuse_text(path: Path) -> None:
    """Name what lies where weights should: a Git LFS pointer, a web page, nothing."""
    with path.open("rb") as file:
        head = file.read(64)
    kinds = {b"version https://git-lfs": "a Git LFS pointer", b"<": "a web page", b"\x89HDF": "an HDF5 file"}
    found = next((kind for start, kind in kinds.items() if head.lstrip().startswith(start)), "")
    found = found or ("an empty file" if not head else "")
    if found:
        remedy = "git lfs pull" if "LFS" in found else "copy or download it again"
        raise SourceError("the file holds no weights", [Mismatch(str(path), "weights", found, remedy)])


def _check_archive(path: Path) -> None:
    """Refuse programs, and what torch does not write: compressed entries grow without bound when they are read."""
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            fault = Mismatch(str(path), "tensors and plain containers", "a TorchScript program", _EXPORT)
            raise SourceError("the file needs code to load", [fault])
        packed = [one.filename for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED]
        if packed:
            fault = Mismatch(str(path), "entries as torch writes them", f"compressed ones: {packed[0][:60]}", _EXPORT)
            raise SourceError("the file is compressed inside", [fault])


def _refusal(path: Path, error: Exception) -> SourceError:
    """The error for a pickle that weights_only refused: too new, needs code, or is no pickle at all."""
    protocol = _protocol(path)
    if protocol > _NEWEST_PROTOCOL:
        expected = f"a pickle of protocol {_NEWEST_PROTOCOL} or older, as torch writes it"
        fault = Mismatch(str(path), expected, f"protocol {protocol}", _EXPORT)
        return SourceError("the pickle is too new to be read without running it", [fault])
    needed = _unsafe_names(path, error)
    if not needed:
        return SourceError("the file is damaged", [damaged(path, "PyTorch", error)])
    classes = ", ".join(needed)
    remedy = f"{_EXPORT}\nwith torch.serialization.safe_globals([{classes}]): transfer(...)      if you trust these"
    why = "a pickle runs what it names; autoadapt runs nothing that a file says"
    fault = Mismatch(str(path), "tensors and plain containers", classes, remedy, why)
    return SourceError("the file needs code to load", [fault])


def _protocol(path: Path) -> int:
    """The protocol of the pickle in a file; zero where none is said."""
    head = b""
    if zipfile.is_zipfile(path):
        with contextlib.suppress(zipfile.BadZipFile, OSError, NotImplementedError), zipfile.ZipFile(path) as archive:
            inside = [name for name in archive.namelist() if name.endswith("data.pkl")]
            head = archive.open(inside[0]).read(2) if inside else head
    else:
        with path.open("rb") as file:
            head = file.read(2)
    return head[1] if len(head) == 2 and head[0] == pickle.PROTO[0] else 0


def _unsafe_names(path: Path, error: Exception) -> list[str]:
    """What a pickle names; of a file that is no archive, and in torch 2.5, the first alone, from torch's words."""
    if zipfile.is_zipfile(path):
        with contextlib.suppress(Exception), _without_hints():  # torch 2.5 has no such function; else damaged
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return str(error).partition("GLOBAL ")[2].split()[:1]
