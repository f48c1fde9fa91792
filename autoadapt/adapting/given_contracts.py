"""Given contracts: the signature that `like=` means, and the refusal of what means none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.planning import with_inputs
from autoadapt.contracts.capturing import bind, capture
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.instances import not_a_module
from autoadapt.contracts.signature import Signature, TensorSpec, check_written, image_of
from autoadapt.contracts.trees import flatten
from autoadapt.errors import InputError, Mismatch, SignatureError
from autoadapt.sources import as_module, names_weights, near_names

__all__ = ["as_signature", "settled_already", "with_given_inputs"]

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


def with_given_inputs(target: Signature, source: Signature, new: nn.Module, inputs: object) -> Signature:
    """A contract that says nothing of what goes in, such as one in texts, with the inputs that the caller gives.

    Those that `new` takes as they are say nothing more; one image of other channels is the input of the contract.

    Raises:
        CaptureError: `new` takes others, and the given ones are no image either.
        SignatureError: An output of the contract would be empty at their size.
    """
    if target.inputs.leaves or inputs is None:
        return target
    specs, tensors = source.inputs.leaves, flatten(bind(new, inputs).values)[1]
    if len(specs) == len(tensors) and all(map(_takes, specs, tensors)):
        _refuse_empty(target, specs, tensors)
        return target
    image = image_of(source.inputs)
    if image is not None and len(specs) == len(tensors) == 1 and _is_image_like(specs[0], tensors[0], image[1]):
        dims = [dim if dim.axes else Dim(size) for dim, size in zip(specs[0].dims, tensors[0].shape, strict=True)]
        given = source.inputs.model_copy(update={"leaves": (specs[0].with_dims(dims),)})
        return with_inputs(target, source.model_copy(update={"inputs": given}))
    found = ", ".join(f"{list(one.shape)} of {str(one.dtype).removeprefix('torch.')}" for one in tensors)
    sizes = {axis: allowed.example for axis, allowed in source.axes.items()}
    calls = ", ".join(f"torch.zeros{spec.shape(sizes)}" for spec in specs)
    remedy = f"inputs={calls if len(specs) == 1 else f'({calls})'}, or like= the old module itself"
    fault = Mismatch("inputs", ", ".join(map(str, specs)), found or "no tensor", remedy)
    raise InputError("a contract in texts says nothing of the inputs, and the new module takes others", [fault])


def _refuse_empty(target: Signature, specs: Sequence[TensorSpec], tensors: Sequence[torch.Tensor]) -> None:
    pairs = [pair for spec, one in zip(specs, tensors, strict=True) for pair in zip(spec.dims, one.shape, strict=True)]
    sizes = {str(dim): size for dim, size in pairs if dim.axes}
    at = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    faults = [
        Mismatch(path, f"sizes of 1 or more at {at}", f"{spec}, which is {list(spec.shape(sizes))}", "larger inputs")
        for path, spec in target.outputs.items()
        if {axis for dim in spec.dims for axis in dim.axes} <= sizes.keys() and min(spec.shape(sizes), default=1) < 1
    ]
    if faults:
        raise SignatureError("a contract in texts is empty at the size of the inputs", faults)


def _takes(spec: TensorSpec, tensor: torch.Tensor) -> bool:
    """Whether a tensor is of a spec: its kind of numbers, its number of axes, and those of them that are fixed."""
    fixed = [(dim.constant, size) for dim, size in zip(spec.dims, tensor.shape, strict=False) if not dim.axes]
    is_alike = len(spec.dims) == tensor.dim() and spec.is_floating == tensor.is_floating_point()
    return is_alike and all(wanted == size for wanted, size in fixed)


def _is_image_like(spec: TensorSpec, tensor: torch.Tensor, channels: int) -> bool:
    """Whether a tensor is an image as a spec says, with other channels; not one with its channels elsewhere."""
    is_alike = spec.is_floating == tensor.is_floating_point() and len(spec.dims) == tensor.dim()
    return is_alike and tensor.shape[-1] != channels and all(dim.axes or dim == channels for dim in spec.dims)


def settled_already(new: object, source: Signature, target: Signature) -> dict[str, str]:
    """Each output by its own name, of an adapted module that returns what is wanted: none of its adapters is cut."""
    found, wanted = ({path: (one.dtype, one.dims) for path, one in each.outputs.items()} for each in (source, target))
    return {path: path for path in wanted} if isinstance(new, AdaptedModule) and found == wanted else {}
