"""Given inputs: the argument `inputs=`; arrays become tensors, and shapes, texts and the like are refused."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset

from autoadapt.contracts.instances import dtype_of
from autoadapt.contracts.trees import Opaque, flatten
from autoadapt.errors import CaptureError, Mismatch

_SIDE = 224


def as_tensors(module: nn.Module, inputs: object) -> Any:
    """The inputs with NumPy arrays as tensors.

    Arrays of float64, NumPy's default, get the dtype of the module's parameters.

    Raises:
        CaptureError: As by `check_inputs`; or an array has a dtype that torch does not have.

    Example:
        >>> as_tensors(nn.Conv2d(3, 8, 1), {"x": np.zeros((1, 3, 8, 8))})["x"].dtype
        torch.float32
        >>> as_tensors(nn.Conv2d(3, 8, 1), (1, 3, 64, 64))  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        autoadapt.errors.CaptureError: a shape is no input
        `inputs`
          expected  a tensor, a tuple of them, or a dict of keyword arguments
          found     (1, 3, 64, 64)
          try       inputs=torch.zeros(1, 3, 64, 64)
    """
    check_inputs(inputs)
    return _converted(module, inputs)


def check_inputs(inputs: object) -> None:
    """Refuse values that are no inputs of any module.

    Raises:
        CaptureError: It is a shape, a size, a text, a class, a function or a loader, or a container of shapes, or it
            holds a packed sequence.
    """
    if place := _packed(inputs, "inputs"):
        told = "a module that takes [N, B, ...] with lengths, and packs them itself"
        fault = Mismatch(place, told, "a PackedSequence", f"padded, lengths = {_PADDING}({place})")
        raise CaptureError("a packed sequence is no input: it does not list tokens along an axis", [fault])
    what = _no_input(inputs)
    if what:
        expected = "a tensor, a tuple of them, or a dict of keyword arguments"
        meant = "next(iter(loader))" if _gives_batches(inputs) else _as_zeros(inputs)
        if isinstance(inputs, torch.Tensor):
            meant = "torch.nested.to_padded_tensor(inputs, 0.0)"
        if type(inputs).__module__.startswith("PIL."):
            meant = "torchvision.transforms.functional.to_tensor(image)[None]"
        fault = Mismatch("`inputs`", expected, repr(inputs)[:60], f"inputs={meant}")
        raise CaptureError(f"{what} is no input", [fault])


_PADDING = "torch.nn.utils.rnn.pad_packed_sequence"


def _packed(inputs: object, place: str) -> str:
    """Where a packed sequence stands among the inputs, as code; empty where there is none."""
    if isinstance(inputs, PackedSequence):
        return place
    keys = inputs if isinstance(inputs, Mapping) else range(len(_children(inputs)))
    found = (_packed(one, f"{place}[{key!r}]") for key, one in zip(keys, _children(inputs), strict=True))
    return next(filter(None, found), "")


def _no_input(inputs: object) -> str:
    """What a value is that is no input, as text; empty where it may be one."""
    if isinstance(inputs, type):
        return "a class"
    if isinstance(inputs, str):
        return "a text"
    if isinstance(inputs, bool):
        return "a truth value"
    if _gives_batches(inputs):
        return f"a {type(inputs).__name__}"
    if isinstance(inputs, nn.Module):
        return "a module"
    if inspect.isroutine(inputs) or isinstance(inputs, functools.partial):
        return "a function"
    if isinstance(inputs, (int, float, np.number)):
        return "a size"
    if _is_shape(inputs):
        return "a shape"
    if isinstance(inputs, torch.Tensor) and inputs.is_nested:
        return "a nested tensor"
    if isinstance(inputs, range) or _is_unread(inputs):
        return f"a {type(inputs).__name__}"
    if isinstance(inputs, list) and not inputs:
        return "an empty list"
    children = _children(inputs)
    # beside tensors a tuple of integers may be an argument, such as the size of a grid
    return "a shape" if children and all(_is_shape(one) and len(one) > 2 for one in children) else ""


def _is_unread(inputs: object) -> bool:
    """Whether it is an object without attributes, such as a device, or an image of PIL.

    Other objects, such as graphs, get an error later that shows how to register their class.
    """
    is_other = hasattr(inputs, "__dict__") and not type(inputs).__module__.startswith("PIL.")
    return not (is_other or isinstance(inputs, np.ndarray)) and isinstance(flatten(inputs)[0], Opaque)


def _gives_batches(inputs: object) -> bool:
    """Whether it is a loader, a dataset or a generator of batches."""
    return isinstance(inputs, (Dataset, DataLoader, Iterator))


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(type(one) is int for one in value)


def _children(inputs: object) -> list[Any]:
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, (tuple, list)) else []


def _as_zeros(inputs: object) -> str:
    """The inputs that may be meant, as code."""
    children = _children(inputs)
    if not children or _is_shape(inputs):
        return f"torch.zeros({', '.join(map(str, _shape(inputs)))})"
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{name!r}: {_as_zeros(one)}" for name, one in inputs.items()) + "}"
    return _as_zeros(children[0]) if len(children) == 1 else f"({', '.join(map(_as_zeros, children))})"


def _shape(inputs: object) -> list[int]:
    """The shape that may be meant."""
    if isinstance(inputs, int) and not isinstance(inputs, bool) and inputs > 0:
        return [1, 3, inputs, inputs]
    numbers = _children(inputs)
    match numbers:
        case [channels, height, width]:
            return [1, channels, height, width]
        case [height, width]:
            return [1, 3, height, width]
        case [] | [_]:
            return [1, 3, _SIDE, _SIDE]
        case _:
            return numbers


def _converted(module: nn.Module, value: object) -> Any:
    """A value with arrays as tensors; arrays of texts, in a dict, become lists."""
    if isinstance(value, np.ndarray):
        return _tensor(module, value)
    if type(value) in (tuple, list) and any(_holds_array(one) for one in value):  # type: ignore[attr-defined]
        return type(value)(_converted(module, one) for one in value)  # type: ignore[call-arg, attr-defined]
    if type(value) is dict and any(_holds_array(one) for one in value.values()):
        return {key: one.tolist() if _texts(one) else _converted(module, one) for key, one in value.items()}
    return value


def _texts(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "U"


def _holds_array(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_array, value.values()))
    return isinstance(value, np.ndarray) or (isinstance(value, (tuple, list)) and any(map(_holds_array, value)))


def _tensor(module: nn.Module, array: np.ndarray[Any, Any]) -> torch.Tensor:
    try:
        made = torch.from_numpy(np.ascontiguousarray(array) if array.ndim else array.copy())
    except (TypeError, ValueError) as error:
        fault = Mismatch("`inputs`", "an array of numbers", f"dtype {array.dtype}", 'array.astype("float32")')
        raise CaptureError("an array has a dtype that torch has not", [fault]) from error
    return made.to(dtype_of(module)) if made.dtype == torch.float64 else made
