"""Noted calls: the shapes of a whole model's inputs at its last swap, noted on the model itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.signature import dtype_name

_CALL = "autoadapt_call"


def note_call(model: nn.Module, arguments: Arguments) -> None:
    """Note a call of tensors, as texts in a plain attribute; calls with other arguments are not noted.

    Example:
        >>> model = nn.Identity()
        >>> note_call(model, Arguments({"input": torch.zeros(2, 3)}, positional=1))
        >>> call_of(model)
        ('f32[2, 3]',)
    """
    given = list(arguments.values.items())
    if not all(isinstance(value, torch.Tensor) for _, value in given):
        return
    by_name = arguments.positional < len(given)
    texts = [f"{dtype_name(value.dtype)}{list(value.shape)}" for _, value in given]
    put_call(model, [f"{name}={text}" if by_name else text for (name, _), text in zip(given, texts, strict=True)])


def put_call(model: nn.Module, texts: Sequence[str]) -> None:
    """Note a call that was read from a file.

    Args:
        model: The model.
        texts: As from `call_of`.
    """
    if texts:
        vars(model)[_CALL] = tuple(texts)


def call_of(model: nn.Module) -> tuple[str, ...]:
    """The noted call, one text for each argument, `f32[2, 3]`, or for all by name, `x=f32[2, 3]`; empty without one."""
    noted = vars(model).get(_CALL)
    return noted if isinstance(noted, tuple) and all(isinstance(one, str) for one in noted) else ()
