"""The normal form of a dim: a polynomial over axes, floors and maxima, kept canonical by its own arithmetic.

    form      sum of coefficient * monomial, no coefficient zero, monomials in one order, the constant last
    monomial  product of atoms, in one order; the empty product belongs to the constant
    atom      Axis(name) | Floor(form, divisor) | Max(low, form)

Canonical means: the constant inside a floor lies in [0, divisor), no other coefficient there is a multiple of
the divisor, coefficients and divisor share no factor; a floor of one floor is one floor; a floor never holds
one maximum alone; what a maximum holds has no constant. Forms that are equal for every input may still differ
in structure (`H + floor(H/2)` and `floor(3*H/2)`): `equality` decides those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

from autoadapt.errors import Mismatch, SignatureError

MOST_TERMS = 512
MOST_FACTORS = 12
"""Sizes of real networks have a few terms of a few factors; the work of comparing them grows fast."""

Key: TypeAlias = tuple[Any, ...]
"""A sort key of nested tuples: by axes (B before T before H before W), then by kind of atom and content."""


def _place(axis: str) -> Key:
    """The sort key of an axis: its name, but time or depth (`T`) just before the height."""
    return ("H", "", axis) if axis[0] == "T" else (axis[0], axis)


@dataclass(frozen=True)
class Axis:
    """The size of a named input axis."""

    name: str

    @cached_property
    def axes(self) -> frozenset[str]:
        return frozenset({self.name})

    @cached_property
    def key(self) -> Key:
        return (_place(self.name),), 0, 0, ()

    @cached_property
    def lower_bound(self) -> int | None:
        return 0


@dataclass(frozen=True)
class Floor:
    """`floor(inner / divisor)`."""

    inner: Form
    divisor: int

    @cached_property
    def axes(self) -> frozenset[str]:
        return self.inner.axes

    @cached_property
    def key(self) -> Key:
        return tuple(map(_place, sorted(self.axes))), 1, self.divisor, self.inner.key

    @cached_property
    def lower_bound(self) -> int | None:
        bound = self.inner.lower_bound
        return None if bound is None else bound // self.divisor


@dataclass(frozen=True)
class Max:
    """`max(low, inner)`."""

    low: int
    inner: Form

    @cached_property
    def axes(self) -> frozenset[str]:
        return self.inner.axes

    @cached_property
    def key(self) -> Key:
        return tuple(map(_place, sorted(self.axes))), 2, self.low, self.inner.key

    @cached_property
    def lower_bound(self) -> int | None:
        return self.low


Atom: TypeAlias = Axis | Floor | Max
Monomial: TypeAlias = tuple[Atom, ...]


@dataclass(frozen=True)
class Form:
    """A canonical polynomial; build it with `Form.of`, `Form.axis` and arithmetic, never from raw terms.

    Example:
        >>> height = Form.axis("H")
        >>> ((height + Form.of(1)) // 2 + Form.of(1)) // 2 == (height + Form.of(3)) // 4
        True
    """

    terms: tuple[tuple[Monomial, int], ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Computed once: forms are keys of caches, and nested many levels deep."""
        return hash(self.terms)

    @classmethod
    def of(cls, constant: int) -> Form:
        return cls((((), constant),) if constant else ())

    @classmethod
    def atom(cls, atom: Atom) -> Form:
        return cls((((atom,), 1),))

    @classmethod
    def axis(cls, name: str) -> Form:
        return cls.atom(Axis(name))

    @classmethod
    def collect(cls, terms: Iterable[tuple[Monomial, int]]) -> Form:
        """The form of a sum of terms, like ones merged."""
        total: dict[Monomial, int] = {}
        terms = _within_limits(terms)
        for monomial, coefficient in terms:
            total[monomial] = total.get(monomial, 0) + coefficient
        kept = [(monomial, coefficient) for monomial, coefficient in total.items() if coefficient]
        return cls(tuple(sorted(kept, key=lambda term: _monomial_key(term[0]))))

    @cached_property
    def positive_first(self) -> tuple[tuple[Monomial, int], ...]:
        """The terms, those with a negative coefficient last."""
        return tuple(sorted(self.terms, key=lambda term: term[1] < 0))

    @cached_property
    def axes(self) -> frozenset[str]:
        return frozenset().union(*(atom.axes for monomial, _ in self.terms for atom in monomial))

    @cached_property
    def key(self) -> Key:
        return tuple((_monomial_key(monomial), coefficient) for monomial, coefficient in self.terms)

    @cached_property
    def constant(self) -> int:
        """The term that belongs to no axis."""
        return self.terms[-1][1] if self.terms and not self.terms[-1][0] else 0

    @cached_property
    def variable(self) -> Form:
        """The form without its constant."""
        return Form(tuple(term for term in self.terms if term[0]))

    @cached_property
    def lower_bound(self) -> int | None:
        """A value that the form never falls below, by its terms alone; None where these do not show one."""
        total = 0
        for monomial, coefficient in self.terms:
            bounds = [atom.lower_bound for atom in monomial]
            if (monomial and coefficient < 0) or any(bound is None for bound in bounds):
                return None
            if len(bounds) > 1 and any(bound is None or bound < 0 for bound in bounds):
                return None
            total += coefficient * math.prod(bound for bound in bounds if bound is not None)
        return total

    def __add__(self, other: Form) -> Form:
        return Form.collect([*self.terms, *other.terms])

    def __neg__(self) -> Form:
        return Form(tuple((monomial, -coefficient) for monomial, coefficient in self.terms))

    def __sub__(self, other: Form) -> Form:
        return self + -other

    def __mul__(self, other: Form) -> Form:
        return Form.collect(
            (tuple(sorted(left + right, key=lambda atom: atom.key)), left_coefficient * right_coefficient)
            for left, left_coefficient in self.terms
            for right, right_coefficient in other.terms
        )

    @lru_cache(maxsize=8192)  # noqa: B019 - forms are values, and small
    def __floordiv__(self, divisor: int) -> Form:
        whole = [(monomial, c // divisor) for monomial, c in self.variable.terms if c % divisor == 0]
        rest = Form(tuple((monomial, c) for monomial, c in self.variable.terms if c % divisor))
        return Form.collect([*whole, *_floor(rest, self.constant, divisor).terms])

    def at_least(self, low: int) -> Form:
        """`max(low, self)`, the constant of the form moved outside."""
        bound = self.lower_bound
        if not self.axes:
            return Form.of(max(low, self.constant))
        if bound is not None and bound >= low:
            return self
        low, inner = low - self.constant, self.variable
        match inner.terms:
            case (((Max(low=lower, inner=innermost),), 1),):
                outer = Max(max(low, lower), innermost)
            case _:
                outer = Max(low, inner)
        return Form.atom(outer) + Form.of(self.constant)


def _within_limits(terms: Iterable[tuple[Monomial, int]]) -> Iterator[tuple[Monomial, int]]:
    """The terms, or an error where there are more than the size of a real network has."""
    for count, (monomial, coefficient) in enumerate(terms, 1):
        if count > MOST_TERMS or len(monomial) > MOST_FACTORS:
            expected = f"at most {MOST_TERMS} terms of {MOST_FACTORS} factors"
            raise SignatureError("a dim is too long", [Mismatch("dim", expected, "more", "a dim of fewer terms")])
        yield monomial, coefficient


def _monomial_key(monomial: Monomial) -> Key:
    return -len(monomial), tuple(atom.key for atom in monomial)


def _floor(variable: Form, constant: int, divisor: int) -> Form:
    """`floor((variable + constant) / divisor)`; no coefficient of `variable` is a multiple of `divisor`."""
    common = math.gcd(divisor, *(coefficient for _, coefficient in variable.terms))
    variable = Form(tuple((monomial, coefficient // common) for monomial, coefficient in variable.terms))
    constant, divisor = constant // common, divisor // common
    if not variable.terms or divisor == 1:
        return variable + Form.of(constant // divisor)
    match variable.terms:
        case (((Floor(inner=inner, divisor=first),), 1),):
            return (inner + Form.of(constant * first)) // (first * divisor)
        case (((Max(low=low, inner=inner),), factor),) if factor > 0:
            scaled = inner * Form.of(factor) + Form.of(constant)
            return (scaled // divisor).at_least((factor * low + constant) // divisor)
    inside = Floor(variable + Form.of(constant % divisor), divisor)
    return Form.atom(inside) + Form.of(constant // divisor)


def evaluate(form: Form, sizes: Mapping[str, Any], maximum: Callable[[Any, int], Any]) -> Any:
    """The value of a form, for sizes of any type with `+ - * //`: integers, arrays, symbolic integers, dims.

    Terms with a positive coefficient come first, so that generated code subtracts rather than negates; an atom that
    occurs twice is computed once.

    Raises:
        KeyError: An axis of the form is missing from `sizes`.
    """
    return _evaluate(form, sizes, maximum, {})


def _evaluate(form: Form, sizes: Mapping[str, Any], maximum: Callable[[Any, int], Any], known: dict[Atom, Any]) -> Any:
    def value(atom: Atom) -> Any:
        if atom not in known:
            match atom:
                case Axis(name=name):
                    known[atom] = sizes[name]
                case Floor(inner=inner, divisor=divisor):
                    known[atom] = _evaluate(inner, sizes, maximum, known) // divisor
                case Max(low=low, inner=inner):
                    known[atom] = maximum(_evaluate(inner, sizes, maximum, known), low)
        return known[atom]

    total: Any = None
    for monomial, coefficient in form.positive_first:
        term = _scaled([value(atom) for atom in monomial], coefficient if total is None else abs(coefficient))
        if total is not None:
            term = total + term if coefficient > 0 else total - term
        total = term
    return 0 if total is None else total


def _scaled(values: list[Any], coefficient: int) -> Any:
    if not values:
        return coefficient
    product = values[0] if coefficient == 1 else coefficient * values[0]
    for value in values[1:]:
        product = product * value
    return product
