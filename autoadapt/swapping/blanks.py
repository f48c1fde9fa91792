"""Blanks: NaN, or zeros, in the place of what nobody reads the values of, of the shape that it has at every size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch.fx import Proxy

from autoadapt.contracts.dims.forms import Axis, Floor, Form
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.signature import TensorSpec

Sum: TypeAlias = tuple[tuple[int, tuple[Any, ...]], ...]
"""A size as plain tuples, which compilers follow: terms of a factor and of atoms, each `("axis", name)`,
`("floor", sum, divisor)` or `("max", sum, low)`."""


class Blank(MadeByHand):
    """A tensor of NaN, or zeros, of the shape of a leaf of which nobody reads the values but functions take it.

    The functions between the modules of a region still run, as they stand in the model's own code; with the shapes
    that they always had they run at every size at which they did.
    """

    shape: tuple[Any, ...]
    """For each axis a `Sum`."""
    dtype: str | None
    """`float32`, say; None for that of the region's first input."""
    is_written: bool
    """Whether a function writes over it; else all its values are one in memory."""

    is_number: bool = False
    """Whether it is no tensor but a whole number: the size of the one axis."""

    def like(self, given: torch.Tensor, sizes: Mapping[str, Any], *, value: float = 0) -> Any:
        """The tensor or the number, for a call of the region with an input; what floats are filled with."""
        shape = [_size(one, sizes) for one in self.shape]
        if self.is_number:
            return shape[0]
        if isinstance(given, Proxy):
            return given.new_full(shape, value if self.dtype is None else 0, **self._kind)
        dtype = given.dtype if self.dtype is None else getattr(torch, self.dtype)
        fill = value if dtype.is_floating_point else 0
        if self.is_written:
            return torch.full(shape, fill, dtype=dtype, device=given.device)
        return torch.full((), fill, dtype=dtype, device=given.device).expand(shape)

    @property
    def _kind(self) -> dict[str, torch.dtype]:
        return {} if self.dtype is None else {"dtype": getattr(torch, self.dtype)}


def not_a_number(like: torch.Tensor) -> torch.Tensor:
    """NaN in the shape of a tensor; zeros where there is no such number."""
    if isinstance(like, Proxy):  # of which nobody can tell the kind
        return like * math.nan
    fill = math.nan if like.is_floating_point() else 0
    return torch.full((), fill, dtype=like.dtype, device=like.device).expand(like.shape)


def blank_of(spec: TensorSpec, *, is_written: bool, is_number: bool = False) -> Blank:
    """What stands for a leaf of a signature."""
    shape = tuple(_plain(dim._form) for dim in spec.dims)
    dtype = None if spec.is_floating else spec.dtype
    return Blank(shape=shape, dtype=dtype, is_written=is_written, is_number=is_number)


def _plain(form: Form) -> Sum:
    def atom(one: Any) -> tuple[Any, ...]:
        if isinstance(one, Axis):
            return "axis", one.name
        if isinstance(one, Floor):
            return "floor", _plain(one.inner), one.divisor
        return "max", _plain(one.inner), one.low

    return tuple((factor, tuple(map(atom, monomial))) for monomial, factor in form.terms)


def _size(terms: Sum, sizes: Mapping[str, Any]) -> Any:
    total = 0
    for factor, atoms in terms:
        for atom in atoms:
            factor = factor * _atom(atom, sizes)
        total = total + factor
    return total


def _atom(atom: tuple[Any, ...], sizes: Mapping[str, Any]) -> Any:
    if atom[0] == "axis":
        return sizes[atom[1]]
    value = _size(atom[1], sizes)
    return value // atom[2] if atom[0] == "floor" else max(value, atom[2])
