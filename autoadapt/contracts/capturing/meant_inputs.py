"""Meant inputs: the remedy for inputs at which a module raises, found by trying what the caller may have meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import bind
from autoadapt.contracts.capturing.given_inputs import as_tensors
from autoadapt.contracts.capturing.starting import start
from autoadapt.errors import AdaptError, InputError

_COLOURS = 3


def with_meant_inputs(error: InputError, module: nn.Module, inputs: object) -> InputError:
    """The error of a module that raises at its inputs, with inputs at which it runs as the remedy.

    Args:
        error: The error.
        module: The module; only copies of it run.
        inputs: The inputs of the caller.

    Example:
        >>> from autoadapt.errors import Mismatch
        >>> layer = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1))
        >>> given = torch.zeros(1, 64, 64, 3)  # channels last
        >>> error = InputError("it raises", [Mismatch("inputs", "a forward pass", "64 channels", "")])
        >>> with_meant_inputs(error, layer, given).mismatches[0].remedy
        'inputs=x.permute(0, 3, 1, 2)  # channels before height and width'
    """
    if not error.mismatches:
        return error
    found = next((code for code, change in _meant(as_tensors(module, inputs)) if _runs(module, change())), "")
    if not found:
        return error
    first, *others = error.mismatches
    return type(error)(error.summary, [replace(first, remedy=found), *others])


def meant_code(module: nn.Module, x: torch.Tensor) -> str:
    """The change of `x` with which a module runs that raises at it alone, as code; empty where none is known.

    Example:
        >>> meant_code(nn.Conv2d(3, 8, 1), torch.zeros(1, 64, 64, 3))
        'x.permute(0, 3, 1, 2)'
    """
    return next((code for code, change in _changed(x) if _runs(module, change())), "")


def _runs(module: nn.Module, inputs: object) -> bool:
    try:
        start(module, bind(module, inputs), inner=False, real=False)
    except (AdaptError, RuntimeError):
        return False
    return True


def _meant(inputs: object) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Changes of the inputs, as code and as a function that returns the changed ones, the likeliest first."""
    if isinstance(inputs, list) and inputs:
        shown = "x," if len(inputs) == 1 else ", ".join(f"x{i}" for i in range(1, len(inputs) + 1))
        yield f"inputs=({shown})  # a list is one argument, a tuple holds each of them", lambda: tuple(inputs)
    first = inputs[0] if isinstance(inputs, tuple) and inputs else inputs
    if not isinstance(first, torch.Tensor):
        return
    rest = inputs[1:] if isinstance(inputs, tuple) else None
    for code, change in _changed(first):
        shown = f"inputs={code}" if not rest else f"inputs=({code}, ...)"
        yield f"{shown}  # {_NOTES[code]}", partial(_with_first, change, rest)


_NOTES = {
    "x[None]": "a batch of one",
    "x.permute(0, 3, 1, 2)": "channels before height and width",
    "x.permute(2, 0, 1)[None]": "channels before height and width, in a batch of one",
    "x[None, None].expand(1, 3, -1, -1)": "as three channels, in a batch of one",
    "x.expand(-1, 3, -1, -1)": "as three channels",
    f"x[:, :{_COLOURS}]": "without the further channels",
}


def _with_first(change: Callable[[], torch.Tensor], rest: tuple[Any, ...] | None) -> object:
    return change() if rest is None else (change(), *rest)


def _changed(x: torch.Tensor) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Changes of one tensor: a batch axis added, channels moved first, or three channels made."""
    if x.dim() == 4:
        yield "x.permute(0, 3, 1, 2)", lambda: x.permute(0, 3, 1, 2)
        if x.shape[1] == 1:
            yield "x.expand(-1, 3, -1, -1)", lambda: x.expand(-1, _COLOURS, -1, -1)
        if x.shape[1] > _COLOURS:
            yield f"x[:, :{_COLOURS}]", lambda: x[:, :_COLOURS]
    yield "x[None]", lambda: x[None]
    if x.dim() == 3:
        yield "x.permute(2, 0, 1)[None]", lambda: x.permute(2, 0, 1)[None]
    if x.dim() == 2:
        yield "x[None, None].expand(1, 3, -1, -1)", lambda: x[None, None].expand(1, _COLOURS, -1, -1)
