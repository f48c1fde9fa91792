"""Fingerprints: what tells a module, a file or images from others, so that no row of before is taken for theirs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from autoadapt.saving.module_states import checksum_of
from autoadapt.sources.code_paths import names_a_file

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def of_module(module: nn.Module) -> str:
    """Its layers as they are printed, and the bits of its weights.

    Example:
        >>> of_module(nn.ReLU()) == of_module(nn.ReLU()), of_module(nn.ReLU()) == of_module(nn.GELU())
        (True, False)
    """
    printed = hashlib.sha256(_ADDRESS.sub("", repr(module)).encode(errors="replace")).hexdigest()
    return printed[:8] + of_tensors(one for one in module.state_dict().values() if isinstance(one, torch.Tensor))


def of_tensors(tensors: Iterable[torch.Tensor]) -> str:
    """Their bits, in order; of those on the meta device, which have none, nothing."""
    kept = (one if one.layout is torch.strided else one.to_dense() for one in tensors if not one.is_meta)
    return checksum_of({f"{number:09}": tensor for number, tensor in enumerate(kept)})[:16]


def of_file(source: str) -> str:
    """The content of the file that a source names, not of those that it imports; empty where it names none."""
    path = Path(source.rpartition(":")[0] if names_a_file(source) else source)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except (OSError, ValueError):  # whatever is wrong with it is said where it is loaded
        return ""
