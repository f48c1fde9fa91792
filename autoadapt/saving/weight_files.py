"""Weight files: tensors that are read only if they are those that a config names."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from autoadapt.errors import Mismatch, SavingError
from autoadapt.files.reading import hindrance
from autoadapt.files.writing import file_hash, kept_copies


def read_tensors(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """The tensors of a file that is the one that was saved.

    Where `save` was killed after the new weights took their place and before the new config did, those of the config
    are still kept beside them, and are read.

    Raises:
        SavingError: It is missing, cut short, or another one.
    """
    try:
        return load_file(_file_of(path, sha256))
    except (OSError, SafetensorError) as error:
        said = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        fault = Mismatch(str(path), "the weights beside the config", said, "copy or save it again")
        raise SavingError(f"{path} cannot be read", [fault]) from error


def _file_of(path: Path, sha256: str) -> Path:
    """The file, or the copy that is kept of it, of this checksum."""
    if said := hindrance(path):
        raise OSError(0, said)
    found = file_hash(path)
    if found == sha256:
        return path
    for kept in kept_copies(path):
        if file_hash(kept) == sha256:
            return kept
    size = f"{path.stat().st_size:,} bytes"
    fault = Mismatch(str(path), f"SHA-256 {sha256[:16]}..", f"{found[:16]}.. ({size})", "copy or save it again")
    raise SavingError(f"{path} is not the file that was saved with this config", [fault])
