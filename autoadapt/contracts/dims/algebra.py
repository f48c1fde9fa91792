"""Dim: the size of one axis as an exact integer function of the input axes."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, SupportsIndex

import numpy as np
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from autoadapt.contracts.dims.equality import always_equal, constant_value, fingerprint
from autoadapt.contracts.dims.factoring import factorise
from autoadapt.contracts.dims.forms import Axis, Floor, Form, Max, Monomial, evaluate
from autoadapt.contracts.dims.parsing import RESERVED, parse_form
from autoadapt.contracts.dims.texts import show
from autoadapt.errors import Mismatch, SignatureError, nearest


class Dim:
    """An exact integer function of named input axes, immutable and hashable.

    Two dims are equal when they agree on every non-negative size of their axes, however they were written
    (`equality.always_equal` states the limits); a dim without axes equals the plain integer.

    Example:
        >>> height = Dim.axis("H")
        >>> ((height.ceildiv(2) + 1) // 2 - 1) // 3
        Dim('ceil(H/12) - 1')
        >>> Dim.parse("H + H//2") == Dim.parse("floor(3*H/2)")
        True
        >>> Dim.parse("floor(H/14)*floor(W/14) + 1").evaluate({"H": 224, "W": 224})
        257
    """

    __slots__ = ("_axes", "_form")
    _form: Form
    _axes: frozenset[str] | None
    """Computed at the first use: planning asks for it ten thousand times."""

    def __new__(cls, constant: SupportsIndex | Dim) -> Dim:
        return constant if isinstance(constant, Dim) else cls._of(Form.of(operator.index(constant)))

    @classmethod
    def _of(cls, form: Form) -> Dim:
        dim = object.__new__(cls)
        object.__setattr__(dim, "_form", form)
        object.__setattr__(dim, "_axes", None)
        return dim

    @classmethod
    def axis(cls, name: str) -> Dim:
        """The size of an input axis.

        Raises:
            SignatureError: The name is not an identifier, or is the name of a function.
        """
        if not (name.isascii() and name.isidentifier()) or name in RESERVED:
            expected = f"an identifier other than {', '.join(RESERVED)}"
            raise SignatureError(
                f"{name!r} cannot name an axis", [Mismatch("axis", expected, repr(name), 'for example "H"')]
            )
        return cls._of(Form.axis(name))

    @classmethod
    def parse(cls, text: str | int) -> Dim:
        """The dim that a text describes, with `+ - * //`, `floor(a/s)`, `ceil(a/s)` and `max(low, a)`.

        Raises:
            SignatureError: The text is no dim; the column where it stops being one is named.
        """
        return cls._of(parse_form(text)) if isinstance(text, str) else cls(text)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Dim is immutable: cannot set {name!r}")

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Dim.parse, (str(self),)

    def __add__(self, other: Dim | int) -> Dim:
        return _combined(operator.add, self, other)

    def __radd__(self, other: int) -> Dim:
        return _combined(operator.add, other, self)

    def __sub__(self, other: Dim | int) -> Dim:
        return _combined(operator.sub, self, other)

    def __rsub__(self, other: int) -> Dim:
        return _combined(operator.sub, other, self)

    def __mul__(self, other: Dim | int) -> Dim:
        return _combined(operator.mul, self, other)

    def __rmul__(self, other: int) -> Dim:
        return _combined(operator.mul, other, self)

    def __neg__(self) -> Dim:
        return Dim._of(-self._form)

    def __floordiv__(self, divisor: int) -> Dim:
        return Dim._of(self._form // _positive(divisor))

    def ceildiv(self, divisor: int) -> Dim:
        """The quotient rounded up.

        Example:
            >>> Dim.axis("H").ceildiv(32)
            Dim('ceil(H/32)')
        """
        return (self + (_positive(divisor) - 1)) // divisor

    def at_least(self, low: int) -> Dim:
        """`max(low, self)`."""
        return Dim._of(self._form.at_least(low))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Dim):
            return always_equal(self._form, other._form)
        if isinstance(other, int):
            return always_equal(self._form, Form.of(other))
        return NotImplemented

    def __hash__(self) -> int:
        values = fingerprint(self._form)
        return hash(values[0] if len(set(values)) == 1 else values)

    @property
    def constant(self) -> int | None:
        """The value of a dim that depends on no axis, else None."""
        return constant_value(self._form)

    @property
    def axes(self) -> frozenset[str]:
        """The axes that the dim is written with; none where it is constant."""
        if self._axes is None:
            object.__setattr__(self, "_axes", frozenset() if self.constant is not None else self._form.axes)
        return self._axes or frozenset()

    @property
    def terms(self) -> tuple[tuple[int, tuple[Dim, ...]], ...]:
        """The terms `(coefficient, factors)` of the sum: most factors first, then by axis, the constant `(c, ())` last.

        Example:
            >>> Dim.parse("2*H*floor(W/2) - W + 1").terms
            ((2, (Dim('H'), Dim('floor(W/2)'))), (-1, (Dim('W'),)), (1, ()))
        """
        return tuple(
            (coefficient, tuple(Dim._of(Form.atom(atom)) for atom in monomial))
            for monomial, coefficient in self._form.terms
        )

    @property
    def added(self) -> int:
        """The constant of the sum; 0 where there is none.

        Example:
            >>> Dim.parse("floor(H/14)*floor(W/14) + 1").added
            1
        """
        return sum(coefficient for coefficient, atoms in self.terms if not atoms)

    @property
    def factors(self) -> tuple[Dim, ...] | None:
        """The dim as one product: a constant other than 1, then factors in the order of their axes; None for a sum.

        Each factor depends on one axis, except a floor or a maximum that itself mixes axes. The dim 1 has no factors.

        Example:
            >>> Dim.parse("49*B*floor(H/7)*floor(W/7)").factors
            (Dim('49'), Dim('B'), Dim('floor(H/7)'), Dim('floor(W/7)'))
            >>> Dim.parse("(2*floor(H/2) + 1)*(W + 3)").factors
            (Dim('2*floor(H/2) + 1'), Dim('W + 3'))
            >>> Dim.parse("floor(H/14)*floor(W/14) + 1").factors is None
            True
        """
        factors = factorise(self._form)
        return None if factors is None else tuple(map(Dim._of, factors))

    def evaluate(self, sizes: Mapping[str, Any]) -> Any:
        """The value at these sizes: integers, numpy arrays, `torch.SymInt` or `torch.fx.Proxy`.

        Only `+ - * //` and a maximum are used, so that a traced graph holds the arithmetic that a person would write.

        Raises:
            SignatureError: An axis of the dim has no size.
        """
        several = len(self._form.axes) > 1
        factors = (several and factorise(self._form)) or (self._form,)
        try:
            values = [evaluate(factor, sizes, _maximum) for factor in factors]
        except KeyError as missing:
            name = str(missing.args[0])
            found = f"sizes of {', '.join(sizes) or 'no axis'}"
            fault = Mismatch(f"axis {name} of {self}", "a size", found, _remedy(name, sizes))
            raise SignatureError(f"{self} needs the size of axis {name}", [fault]) from None
        total = values[0]
        for value in values[1:]:
            total = total * value
        return total

    def substitute(self, replacements: Mapping[str, Dim | int]) -> Dim:
        """The dim with other dims in the place of axes; axes not named stay.

        Example:
            >>> Dim.parse("ceil(H/32)").substitute({"H": Dim.parse("W - 1")})
            Dim('ceil((W - 1)/32)')
        """
        own = self._form.axes
        return _substituted(
            self._form, tuple((axis, Dim(by)._form) for axis, by in replacements.items() if axis in own)
        )

    def slope(self, axis: str) -> Fraction | None:
        """Growth per unit of an axis at large sizes; None where other axes multiply it.

        Example:
            >>> Dim.parse("2*ceil(H/32) + W").slope("H")
            Fraction(1, 16)
            >>> Dim.parse("H*W").slope("H") is None
            True
        """
        return _slope(self._form, axis)

    def __str__(self) -> str:
        return show(self._form)

    def __repr__(self) -> str:
        return f"Dim({str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _validated, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "description": "size of an axis, such as ceil(H/32)"}


def _combined(operation: Any, left: Dim | int, right: Dim | int) -> Dim:
    if not isinstance(left, Dim | SupportsIndex) or not isinstance(right, Dim | SupportsIndex):
        return NotImplemented
    return Dim._of(operation(Dim(left)._form, Dim(right)._form))


@lru_cache(maxsize=8192)
def _substituted(form: Form, replacements: tuple[tuple[str, Form], ...]) -> Dim:
    sizes = {name: Dim._of(Form.axis(name)) for name in form.axes}
    return Dim(evaluate(form, sizes | {name: Dim._of(by) for name, by in replacements}, Dim.at_least))


def _positive(divisor: int) -> int:
    if divisor < 1:
        fault = Mismatch("divisor", "an integer of 1 or more", repr(divisor))
        raise SignatureError(f"a dim cannot be divided by {divisor}", [fault])
    return divisor


def _maximum(value: Any, low: int) -> Any:
    if isinstance(value, int):
        return max(low, value)
    if isinstance(value, np.ndarray | np.generic):
        return np.maximum(value, low)
    import torch

    return torch.sym_max(value, low)


@lru_cache(maxsize=8192)
def _slope(form: Form, axis: str) -> Fraction | None:
    slopes = [_term_slope(monomial, axis) for monomial, _ in form.terms]
    total = Fraction(0)
    for slope, (_, coefficient) in zip(slopes, form.terms, strict=True):
        if slope is None:
            return None
        total += coefficient * slope
    return total


def _term_slope(monomial: Monomial, axis: str) -> Fraction | None:
    """The slope of a product along an axis at large sizes; None where it is not constant."""
    match [atom for atom in monomial if axis in atom.axes]:
        case []:
            return Fraction(0)
        case [Axis()] if len(monomial) == 1:
            return Fraction(1)
        case [Floor(inner=inner, divisor=divisor)] if len(monomial) == 1:
            slope = _slope(inner, axis)
            return None if slope is None else slope / divisor
        case [Max(inner=inner)] if len(monomial) == 1:
            slope = _slope(inner, axis)
            return None if slope is None else max(slope, Fraction(0))
        case _:
            return None


def _remedy(name: str, sizes: Mapping[str, Any]) -> str:
    close = nearest(name, sizes, count=1)
    return f"rename {close[0]} to {name}" if close else f'sizes["{name}"] = ...'


def _validated(value: object) -> Dim:
    if isinstance(value, Dim):
        return value
    if isinstance(value, str | int):
        return Dim.parse(value)
    fault = Mismatch("dim", "a text, an integer or a Dim", repr(value), 'for example "ceil(H/32)"')
    raise SignatureError(f"{value!r} is not a dim", [fault])
