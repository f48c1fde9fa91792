"""Forms: the arguments of a call as text, with numbers and other constants, where a tensor is just `tensor`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch.fx import Proxy

Form: TypeAlias = tuple[str | int | float | None, ...]
"""Pieces of text with numbers between them; None stands for any number."""


def form_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Form:
    """The form of a call.

    Example:
        >>> form_of((torch.zeros(2), 7), {"mask": None, "mode": "fast"})
        ('tensor', ', ', 7, ', mask=', 'None', ', mode=', "'fast'")
    """
    named = (*(("", value) for value in args), *((f"{name}=", value) for name, value in kwargs.items()))
    found: list[str | int | float | None] = []
    for name, value in named:
        before = f", {name}" if found else name
        found += [before, *_kind(value)] if before else _kind(value)
    return tuple(found)


def form_text(form: Form) -> str:
    """A form as a person would write the arguments.

    Example:
        >>> form_text(("tensor", ", ", None, ", mask=", "None"))
        'tensor, number, mask=None'
    """
    return "".join("number" if piece is None else str(piece) for piece in form)


def is_like(seen: Form, given: Form) -> bool:
    """Whether a form fits one that was seen.

    Example:
        >>> is_like(("tensor", ", ", None), ("tensor", ", ", 8)), is_like(("tensor", ", ", 7), ("tensor", ", ", 8))
        (True, False)
    """
    return seen == given or (len(seen) == len(given) and all(map(_is_like, seen, given)))


def loosened(forms: Sequence[Form], seen: Sequence[Form]) -> tuple[Form, ...]:
    """The forms with any number allowed at the places where those of one call differ between sizes."""
    alike = [one for one in seen if len(one) == len(seen[0])]
    moving = {at for at, pieces in enumerate(zip(*alike, strict=True)) if len(set(pieces)) > 1}
    made = [
        tuple(None if at in moving and not isinstance(piece, str) else piece for at, piece in enumerate(form))
        if len(form) == len(seen[0])
        else form
        for form in forms
    ]
    return tuple(dict.fromkeys(made))


def _is_like(seen: str | float | None, given: str | float | None) -> bool:
    return seen == given or (_are_numbers(seen, given) and (seen is None or given is None))


def _are_numbers(*pieces: str | float | None) -> bool:
    return not any(isinstance(piece, str) for piece in pieces)


def _kind(value: Any) -> Iterator[str | int | float | None]:
    """The pieces of a value's description; a number stays a number, and a symbolic one is None."""
    if isinstance(value, (torch.Tensor, Proxy)):
        yield "tensor"
    elif isinstance(value, torch.SymInt):
        yield None
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        yield value
    elif value is None or isinstance(value, (bool, float, str)):
        yield repr(value)
    elif isinstance(value, (list, tuple)):
        yield "("
        for number, one in enumerate(value):
            yield from (", ", *_kind(one)) if number else _kind(one)
        yield ")"
    elif isinstance(value, dict):
        yield "{"
        for key, one in value.items():
            yield f"{key!r}: "
            yield from (*_kind(one), ", ")
        yield "}"
    else:
        yield type(value).__name__
