"""Files: written beside the old ones and then put in their place, all or none; read only if they are whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from autoadapt.errors import Mismatch, SavingError

__all__ = ["file_hash", "read_tensors", "write_all"]


def write_all(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write several files into a folder; on any failure it is as it was.

    Each is written under another name first and flushed to the disk; then they take their places one after the other.

    Args:
        folder: Made where it does not exist.
        writers: What writes a file to a path, by the name of the file.

    Raises:
        SavingError: The folder cannot be written to.
    """
    mark = uuid.uuid4().hex[:8]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = {name: folder / f".{name}.{mark}.new" for name in writers}
        try:
            for name, write in writers.items():
                write(made[name])
                _flush(made[name])
            _put_in_place(folder, made, mark)
        finally:
            for path in made.values():
                path.unlink(missing_ok=True)
    except OSError as error:
        fault = Mismatch(str(folder), "a folder that can be written to", f"{type(error).__name__}: {error.strerror}")
        raise SavingError(f"{folder} could not be written; what was there is as it was", [fault]) from error


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _put_in_place(folder: Path, made: Mapping[str, Path], mark: str) -> None:
    """Move new files over the old ones; if one of them cannot be moved, put all old ones back."""
    kept: dict[str, Path] = {}
    done: list[str] = []
    try:
        for name in made:
            if (folder / name).exists():
                kept[name] = folder / f".{name}.{mark}.old"
                _keep(folder / name, kept[name])
        for name, path in made.items():
            done.append(name)
            path.replace(folder / name)
    except BaseException:
        for name in done:
            if name in kept:
                kept[name].replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        raise
    finally:
        for path in kept.values():
            path.unlink(missing_ok=True)


def _keep(path: Path, other: Path) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    try:
        other.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, other)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def read_tensors(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """The tensors of a file that is the one that was saved.

    Raises:
        SavingError: It is missing, cut short, or another one.
    """
    try:
        found = file_hash(path)
        if found != sha256:
            size = f"{path.stat().st_size:,} bytes"
            fault = Mismatch(str(path), f"SHA-256 {sha256[:16]}..", f"{found[:16]}.. ({size})", "copy or save it again")
            raise SavingError(f"{path} is not the file that was saved with this config", [fault])
        return load_file(path)
    except (OSError, SafetensorError) as error:
        said = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        fault = Mismatch(str(path), "the weights beside the config", said, "copy or save it again")
        raise SavingError(f"{path} cannot be read", [fault]) from error
