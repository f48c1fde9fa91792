"""Given contracts: the signature for what a caller gives as `like=`, or an error."""

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

_LIKE = "a module, a Signature, texts in containers, a model's name, or the path of a saved signature"
_NUMBERS = re.compile(r"\s*\d+(\s*,\s*\d+)*\s*")
_ROUND = re.compile(r"\s*[\w.]+\s*\(.*\)\s*")
"""A spec in round brackets, such as `f32(B, 3)`; it is parsed, and refused, as a spec."""


def as_signature(like: object, inputs: object = None) -> Signature:
    """The signature for a value of `like=`.

    Args:
        like: A module, a signature, texts in containers, the name of a model, or the path of a saved signature.
        inputs: The example call to capture a module with.

    Raises:
        SignatureError: It is of another type, or a file without a signature.
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
    """The signature for a text: that of an output, a model's name, or the path of a file."""
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
    """A contract without inputs, such as one in texts, completed by the inputs that the caller gives.

    It is unchanged if `new` takes the given inputs as they are. One image with another number of channels becomes the
    input of the contract.

    Args:
        target: The contract; one with inputs is returned as it is.
        source: The signature of `new`.
        new: The new module.
        inputs: The example call, if any.

    Raises:
        InputError: `new` takes other inputs, and the given ones are not one image.
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
    """Refuse inputs at whose size an output of the contract would be empty.

    Raises:
        SignatureError: They are such.
    """
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
    """Whether a tensor fits a spec: floating-point or not, its number of axes, and the sizes of fixed axes."""
    fixed = [(dim.constant, size) for dim, size in zip(spec.dims, tensor.shape, strict=False) if not dim.axes]
    is_alike = len(spec.dims) == tensor.dim() and spec.is_floating == tensor.is_floating_point()
    return is_alike and all(wanted == size for wanted, size in fixed)


def _is_image_like(spec: TensorSpec, tensor: torch.Tensor, channels: int) -> bool:
    """Whether a tensor is an image of a spec except for its number of channels, with channels on the same axis."""
    is_alike = spec.is_floating == tensor.is_floating_point() and len(spec.dims) == tensor.dim()
    return is_alike and tensor.shape[-1] != channels and all(dim.axes or dim == channels for dim in spec.dims)


def settled_already(new: object, source: Signature, target: Signature) -> dict[str, str]:
    """Pairs of each output with itself, where `new` is an adapted module that already keeps the contract.

    Without them, outputs of its backbone might be paired, and its adapters cut.
    """
    found, wanted = ({path: (one.dtype, one.dims) for path, one in each.outputs.items()} for each in (source, target))
    return {path: path for path in wanted} if isinstance(new, AdaptedModule) and found == wanted else {}
