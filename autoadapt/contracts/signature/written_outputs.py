"""Written outputs: a contract that a caller typed is a text for each tensor; numbers and tensors are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import torch

from autoadapt.errors import Mismatch, SignatureError


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
    numbers = [".".join(path) for path, leaf in leaves if isinstance(leaf, _Level)]
    expected = "a text with dtype and sizes for each output"
    if numbers:
        where = ", ".join(numbers[:3]) + ", ..." * (len(numbers) > 3)
        fault = Mismatch(where or "output", expected, repr(outputs)[:60], _written(outputs, leaves))
        raise SignatureError("a number does not describe a tensor", [fault])
    if all(leaf is None for _, leaf in leaves):
        remedy = '["f32[B, 256, ceil(H/4), ceil(W/4)]", "f32[B, 512, ceil(H/8), ceil(W/8)]"]'
        raise SignatureError("a signature without outputs", [Mismatch("outputs", expected, repr(outputs)[:60], remedy)])


def _refuse_tensors(leaves: Sequence[tuple[tuple[str, ...], object]]) -> None:
    """Refuse tensors, such as what a module returned: their shape at one input does not tell that at others."""
    expected = "the module that returns it, or a text with dtype and sizes"
    remedy = "like=old  # the module itself"
    faults = [
        Mismatch(".".join(path) or "output", expected, f"a tensor of the shape {tuple(leaf.shape)}", remedy)
        for path, leaf in leaves[:3]
        if isinstance(leaf, (torch.Tensor, np.ndarray))
    ]
    if faults:
        raise SignatureError("a tensor is no contract", faults)


class _Level(NamedTuple):
    """A level that the caller described by numbers."""

    channels: Any
    stride: int | None = None
    """None where the caller gave only channels, or a shape: sizes at one input do not tell the stride."""


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    """The items with their paths; a number, or numbers that describe one level together, as a `_Level`."""
    if level := _level(value, is_inside=bool(path)):
        yield path, level
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, child in enumerate(value):
            yield from _leaves(child, (*path, str(index)))
    else:
        yield path, value


def _level(value: Any, *, is_inside: bool) -> _Level | None:
    """A level from its channels, from (channels, stride), from timm's `num_chs` and `reduction`, or from a shape.

    A list of numbers that stands in no container is none: its numbers are the channels of several levels.
    """
    if _is_number(value):
        return _Level(value)
    if isinstance(value, Mapping):
        channels = next((value[name] for name in ("num_chs", "channels") if name in value), None)
        stride = next((value[name] for name in ("reduction", "stride") if name in value), None)
        return _Level(channels, stride) if _is_count(channels) and _is_count(stride) else None
    if isinstance(value, torch.Size) and value:
        return _Level(value[1 if len(value) > 1 else 0])
    if not is_inside or not isinstance(value, (list, tuple)) or not all(map(_is_count, value)):
        return None
    if len(value) == 2 and value[1] in (1, 2, 4, 8, 16, 32, 64):
        return _Level(*value)
    is_shape = len(value) in (3, 4) and (value[-1] == value[-2] or list(value) != sorted(value))
    return _Level(value[-3]) if is_shape else None


def _is_number(leaf: object) -> bool:
    """Whether it is a number, also one of numpy or in a text."""
    return isinstance(leaf, Number) or (isinstance(leaf, str) and leaf.strip().isdecimal())


def _is_count(number: Any) -> bool:
    """Whether it is an integer above 0."""
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool) and int(number) > 0


def _is_whole(number: Any) -> bool:
    """Whether it is a float without a fraction, as 128.0."""
    return isinstance(number, (float, np.floating)) and float(number).is_integer()


def _written(outputs: object, leaves: Sequence[tuple[tuple[str, ...], object]]) -> str:
    """The outputs as texts, for the remedy; strides that were not given start at 4 for up to four levels, else at 2."""
    first = 4 if len(leaves) <= 4 else 2
    shown = [
        _text(leaf, first << number) if isinstance(leaf, _Level) else repr(leaf).replace("'", '"')
        for number, (_, leaf) in enumerate(leaves[:6])
    ]
    if leaves[0][0] == ():
        return shown[0]
    if isinstance(outputs, Mapping) and len(outputs) == len(leaves):
        return "{" + ", ".join(f'"{key}": {text}' for key, text in zip(outputs, shown, strict=False)) + "}"
    return "[" + ", ".join(shown) + "]"


def _text(level: _Level, stride: int) -> str:
    """The text of a level; with 256 channels where the given number can be no count."""
    told = level.channels
    channels = int(told) if isinstance(told, str) or _is_whole(told) else told
    stride = level.stride or stride
    return f'"f32[B, {channels if _is_count(channels) else 256}, ceil(H/{stride}), ceil(W/{stride})]"'
