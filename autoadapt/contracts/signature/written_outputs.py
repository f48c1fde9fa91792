"""Written outputs: what a caller writes for a contract, checked before it is read: a text for each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
import torch

from autoadapt.errors import Mismatch, SignatureError

__all__ = ["check_written"]


def check_written(outputs: object) -> None:
    """Refuse numbers and tensors where texts should stand, and containers without any text.

    Raises:
        SignatureError: With the text to write instead.

    Example:
        >>> check_written(["f32[B, 64, ceil(H/4), ceil(W/4)]"])
        >>> check_written([64, 128])  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        autoadapt.errors.SignatureError: a number does not describe a tensor
        0, 1
          expected  a text with dtype and sizes for each output
          found     [64, 128]
          try       ["f32[B, 64, ceil(H/4), ceil(W/4)]", "f32[B, 128, ceil(H/8), ceil(W/8)]"]
    """
    leaves = list(_leaves(outputs, ()))
    _refuse_tensors(leaves)
    numbers = [".".join(path) for path, leaf in leaves if _is_number(leaf)]
    expected = "a text with dtype and sizes for each output"
    if numbers:
        fault = Mismatch(", ".join(numbers) or "output", expected, repr(outputs)[:60], _written(outputs))
        raise SignatureError("a number does not describe a tensor", [fault])
    if all(leaf is None for _, leaf in leaves):
        remedy = '["f32[B, 256, ceil(H/4), ceil(W/4)]", "f32[B, 512, ceil(H/8), ceil(W/8)]"]'
        raise SignatureError("a signature without outputs", [Mismatch("outputs", expected, repr(outputs)[:60], remedy)])


def _refuse_tensors(leaves: Sequence[tuple[tuple[str, ...], object]]) -> None:
    """Weights, or what a module returned: sizes at one input do not tell those at others."""
    expected = "the module that returns it, or a text with dtype and sizes"
    faults = [
        Mismatch(".".join(path) or "output", expected, _shape(leaf), "like=old  # the module itself")
        for path, leaf in leaves[:3]
        if isinstance(leaf, (torch.Tensor, np.ndarray))
    ]
    if faults:
        raise SignatureError("a tensor is no contract", faults)


def _shape(tensor: torch.Tensor | np.ndarray) -> str:
    return f"a tensor of the shape {tuple(tensor.shape)}"


def _is_number(leaf: object) -> bool:
    """Whether it is a number, of numpy and as a text too."""
    return isinstance(leaf, Number) or (isinstance(leaf, str) and leaf.strip().isdecimal())


def _is_whole(number: Any) -> bool:
    """Whether it is a float that says a count, as 128.0."""
    return isinstance(number, (float, np.floating)) and float(number).is_integer()


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    """What is no container, by its path."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, child in enumerate(value):
            yield from _leaves(child, (*path, str(index)))
    else:
        yield path, value


def _written(outputs: object) -> str:
    """Channels as the levels of a pyramid, whose last stride is 32 where there are four or five; texts as they are.

    Pairs of numbers are channels and strides, and a shape is that of one map.
    """
    if isinstance(outputs, torch.Size):
        return _level(outputs[1] if len(outputs) > 1 else 0, 4)
    if isinstance(outputs, (list, tuple)) and all(map(_is_pair, outputs)):
        return "[" + ", ".join(_level(channels, int(stride)) for channels, stride in outputs[:6]) + "]"
    channels = [leaf for _, leaf in _leaves(outputs, ())]
    first = 4 if len(channels) <= 4 else 2
    texts = [
        _level(leaf, first << number) if _is_number(leaf) else repr(leaf) for number, leaf in enumerate(channels[:6])
    ]
    shown = [text.replace("'", '"') for text in texts]
    if isinstance(outputs, Mapping) and len(outputs) == len(channels):
        return "{" + ", ".join(f'"{key}": {text}' for key, text in zip(outputs, shown, strict=False)) + "}"
    return "[" + ", ".join(shown) + "]"


def _is_pair(value: object) -> bool:
    """Whether it is a number of channels and a stride: a power of two, of at most 64."""
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 2
        or not all(type(one) is int and one > 0 for one in value)
    ):
        return False
    return value[1] in (1, 2, 4, 8, 16, 32, 64)


def _level(number: Any, stride: int) -> str:
    """A level of so many channels; of 256 where the number can be no count."""
    written = int(number) if isinstance(number, str) or _is_whole(number) else number
    is_count = isinstance(written, (int, np.integer)) and not isinstance(written, bool) and written > 0
    return f'"f32[B, {written if is_count else 256}, ceil(H/{stride}), ceil(W/{stride})]"'
