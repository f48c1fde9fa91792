"""Given contracts: the signature that `like=` means, and the refusal of what means none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.instances import not_a_module
from autoadapt.contracts.signature import Signature, check_written
from autoadapt.errors import Mismatch, SignatureError
from autoadapt.sources import as_module, names_weights, near_names

__all__ = ["as_signature", "settled_already"]

_LIKE = "a module, a Signature, texts in containers, a model's name, or the path of a saved signature"
_NUMBERS = re.compile(r"\s*\d+(\s*,\s*\d+)*\s*")
_ROUND = re.compile(r"\s*[\w.]+\s*\(.*\)\s*")
"""A spec in brackets of another kind, which is refused as one."""


def as_signature(like: object, inputs: object = None) -> Signature:
    """The signature that `like=` means.

    Raises:
        SignatureError: It is of another type, or a file that holds no signature.
        SourceError: There is no model of that name.
    """
    match like:
        case nn.Module():
            return capture(like, inputs)
        case Signature():
            return like
        case str():
            return _of_text(like, inputs)
        case Path():
            return _of_file(like)
        case Mapping() | list() | tuple() | torch.Tensor() | np.ndarray():
            check_written(like)
            return Signature.parse(like)
        case _:
            raise not_a_module(like, "like", SignatureError, _LIKE)


def _of_text(like: str, inputs: object) -> Signature:
    """The signature of a text: outputs, a model's name, or the path of a file."""
    if "[" in like or _ROUND.fullmatch(like):
        return Signature.parse(like)
    if _names_a_file(like):
        return _of_file(Path(like))
    if ":" in like:
        return capture(as_module(like, "like", levels=True), inputs)
    if _NUMBERS.fullmatch(like):
        check_written([int(number) for number in like.split(",")])
    if names_weights(like):
        remedy = f'like=old  # the module itself; aa.transfer("{like}", old) puts these weights into it'
        raise SignatureError(f"{like!r} holds weights, and no module", [Mismatch("like", _LIKE, f"{like!r}", remedy)])
    near = [f'like="{known}"' for known in near_names(like)]
    expected = "a model with its scheme, or a signature file"
    fault = Mismatch("like", expected, f"{like!r}, neither", "\n".join(near) or 'like="timm:resnet18"')
    raise SignatureError(f"{like!r} has no scheme", [fault])


def _of_file(path: Path) -> Signature:
    if path.is_dir():
        fault = Mismatch("like", "a signature file", f"the folder {path}", f'like=aa.restore("{path}")')
        raise SignatureError(f"{path} is a folder", [fault])
    return Signature.load(path)


def _names_a_file(text: str) -> bool:
    """Whether a text is, or can only be, a path."""
    if not text.strip():
        return False
    has_drive = re.match(r"[A-Za-z]:[\\/]", text) is not None
    path = Path(text)
    if path.exists() or path.is_absolute() or has_drive:
        return True
    return ":" not in text and (path.suffix.startswith(".js") or len(path.parts) > 2)


def settled_already(new: object, source: Signature, target: Signature) -> dict[str, str]:
    """Each output by its own name, of an adapted module that returns what is wanted: none of its adapters is cut."""
    found, wanted = ({path: (one.dtype, one.dims) for path, one in each.outputs.items()} for each in (source, target))
    return {path: path for path in wanted} if isinstance(new, AdaptedModule) and found == wanted else {}
