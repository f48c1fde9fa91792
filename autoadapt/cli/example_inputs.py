"""Inputs: example calls as they are typed: `f32[2, 3, 224, 224]`, a `.npy` or a `.safetensors` file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from autoadapt.contracts.signature import TensorSpec
from autoadapt.errors import Mismatch, SourceError, nearest
from autoadapt.files.reading import hindrance, one_line

_NAMED = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<text>.+)", re.DOTALL)
_USUAL = {"B": 2, "C": 3, "H": 224, "W": 224}


def read_inputs(texts: Sequence[str]) -> object:
    """An example call.

    Args:
        texts: One for each argument, `f32[2, 3, 224, 224]` for noise of that shape or a file of real values; with
            names, `x=f32[...]`, keyword arguments. A `.safetensors` file of several tensors is all of them, by name.

    Returns:
        A tensor, a tuple of positional arguments, a dict of keyword arguments, or None without texts.

    Raises:
        SourceError: A file cannot be read, or arguments with and without names are mixed.
        SignatureError: A text is malformed.

    Example:
        >>> read_inputs(["f32[1, 3, 8, 8]"]).shape
        torch.Size([1, 3, 8, 8])
        >>> {name: tuple(value.shape) for name, value in read_inputs(["x=f32[2]", "y=i64[3]"]).items()}
        {'x': (2,), 'y': (3,)}
    """
    positional: list[torch.Tensor] = []
    named: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for text in texts:
        found = _NAMED.fullmatch(text)
        value = _read(text if found is None else found["text"], generator)
        if isinstance(value, dict):
            named |= value
        elif found is not None:
            named[found["name"]] = value
        else:
            positional.append(value)
    if positional and named:
        fault = Mismatch("--input", "all arguments by name, or none", ", ".join(texts), "--input NAME=SPEC for each")
        raise SourceError("arguments with and without names are mixed", [fault])
    if named:
        return named
    return positional[0] if len(positional) == 1 else tuple(positional) or None


def _read(text: str, generator: torch.Generator) -> torch.Tensor | dict[str, torch.Tensor]:
    """Noise of a shape, the tensor of a file, or the tensors of a file by name."""
    match Path(text).suffix:
        case ".npy":
            return _array(Path(text))
        case ".safetensors":
            tensors = _tensors(Path(text))
            return next(iter(tensors.values())) if len(tensors) == 1 else tensors
        case _:
            return _noise(text, generator)


def _array(path: Path) -> torch.Tensor:
    _refuse_missing(path)
    try:
        if said := hindrance(path):
            raise ValueError(said)
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # which holds it against the size of the file
        return torch.from_numpy(np.array(mapped))
    except Exception as error:  # numpy reads headers as Python, whose parser has errors of its own
        said = one_line(error)
        fault = Mismatch(str(path), "an array of numbers", said, "numpy.save(path, array)  # of floats or integers")
        raise SourceError(f"{path} cannot be read", [fault]) from error


def _refuse_missing(path: Path) -> None:
    """Refuse a file that is not there.

    Raises:
        SourceError: It is not.
    """
    if not path.exists():
        near = nearest(path.name, [one.name for one in path.parent.glob(f"*{path.suffix}")])
        files = [f"--input {shlex.quote(str(path.with_name(name)))}" for name in near]
        remedy = "\n".join(files) or "--input 'f32[2, 3, 224, 224]'"
        raise SourceError(f"there is no file {path}", [Mismatch(str(path), "a file", "no such file", remedy)])


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    _refuse_missing(path)
    try:
        if said := hindrance(path):
            raise OSError(0, said)
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        fault = Mismatch(str(path), "a file of tensors", str(error), "safetensors.torch.save_file(tensors, path)")
        raise SourceError(f"{path} cannot be read", [fault]) from error
    if not tensors:
        raise SourceError(f"{path} is empty", [Mismatch(str(path), "at least one tensor", "none", "save some")])
    return tensors


def _noise(text: str, generator: torch.Generator) -> torch.Tensor:
    if "[" not in text:
        fault = Mismatch(
            text, "f32[2, 3, 224, 224], a .npy or a .safetensors file", text, "--input 'f32[2, 3, 224, 224]'"
        )
        raise SourceError(f"{text} is no input", [fault])
    spec = TensorSpec.parse(text)
    free = [str(dim) for dim in spec.dims if dim.axes]
    if free:
        sizes = ", ".join(str(dim.constant or _USUAL.get(str(dim), 64)) for dim in spec.dims)
        fault = Mismatch(text, "a number for each axis", ", ".join(free), f"--input '{spec.dtype}[{sizes}]'")
        raise SourceError(f"{text} leaves sizes open", [fault])
    shape = spec.shape({})
    if spec.is_floating:
        return torch.randn(shape, generator=generator).to(spec.torch_dtype)
    return torch.randint(0, 2, shape, generator=generator).to(spec.torch_dtype)
