"""A form as one product: a constant, then factors of one axis each, of which layouts make axes."""

from __future__ import annotations

import math
from functools import lru_cache

from autoadapt.contracts.dims.forms import Form, Monomial


@lru_cache(maxsize=8192)
def factorise(form: Form) -> tuple[Form, ...] | None:
    """The factors of a form in the order of its axes, a constant other than 1 first; None for a sum.

    One monomial gives its atoms. From a polynomial in several axes one axis is split off at a time: it factors exactly
    where the coefficients, as a matrix of that axis' monomials against the others, have rank one.
    """
    if not form.axes:
        return () if form.constant == 1 else (form,)
    constant = _content(form)
    primitive = _divided(form, constant)
    parts = _split(primitive)
    if parts is None:
        return None
    return (*((Form.of(constant),) if constant != 1 else ()), *parts)


def _content(form: Form) -> int:
    """The greatest common factor of the coefficients, with the sign of the first."""
    common = math.gcd(*(coefficient for _, coefficient in form.terms))
    return -common if form.terms[0][1] < 0 else common


def _divided(form: Form, constant: int) -> Form:
    return Form(tuple((monomial, coefficient // constant) for monomial, coefficient in form.terms))


def _split(form: Form) -> tuple[Form, ...] | None:
    """The factors of a form, each of other axes or a single atom; None where it is no such product."""
    if len(form.terms) == 1 and form.terms[0][1] == 1:
        return tuple(Form.atom(atom) for atom in form.terms[0][0])
    if len(form.axes) == 1:
        return (form,)
    if any(len(atom.axes) > 1 for monomial, _ in form.terms for atom in monomial):
        return None
    halves = _halves(form, min(form.axes))
    if halves is None:
        return None
    first, others = _split(halves[0]), _split(halves[1])
    return None if first is None or others is None else first + others


def _halves(form: Form, axis: str) -> tuple[Form, Form] | None:
    """The factor of `axis` alone and that of the other axes; None where their product is not the form."""
    rows: dict[Monomial, list[tuple[Monomial, int]]] = {}
    for monomial, coefficient in form.terms:
        own = tuple(atom for atom in monomial if axis in atom.axes)
        rest = tuple(atom for atom in monomial if axis not in atom.axes)
        rows.setdefault(own, []).append((rest, coefficient))
    others = Form.collect(next(iter(rows.values())))
    others = _divided(others, _content(others))
    lead = others.terms[0][0]
    mine = Form.collect((own, dict(row).get(lead, 0)) for own, row in rows.items())
    return (mine, others) if mine * others == form else None
