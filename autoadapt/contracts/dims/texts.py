"""The text of a form, the shortest of its usual spellings: `ceil(H/32)`, `floor(H/14)*floor(W/14) + 1`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from autoadapt.contracts.dims.factoring import factorise
from autoadapt.contracts.dims.forms import Atom, Axis, Floor, Form, Max, Monomial


@lru_cache(maxsize=8192)
def show(form: Form) -> str:
    """The text of a form: a product where several axes factor, else its shortest spelling."""
    factors = factorise(form)
    if factors is None and form.constant and len(factorise(form.variable) or ()) > 1:
        return _sum([(1, show(form.variable)), (form.constant, "")])
    if factors is None or len(factors) < 2:
        return min(_sums(form), key=len)
    if len(form.axes) > 1:
        return _product(factors)
    return min([*_sums(form), _product(factors)], key=len)


def _product(factors: tuple[Form, ...]) -> str:
    texts = [min(map(_closed, _sums(factor)), key=len) for factor in factors]
    if texts[0] == "-1":
        return "-" + "*".join(texts[1:])
    return "*".join(texts)


def _sums(form: Form) -> Iterator[str]:
    """The spellings of a sum: its constant at the end, or inside one of its floors."""
    yield _sum([(c, _monomial(monomial)) for monomial, c in form.terms])
    for index, (monomial, coefficient) in enumerate(form.variable.terms):
        match monomial:
            case (Floor(inner=inner, divisor=divisor),) if form.constant and form.constant % coefficient == 0:
                texts = [(c, _monomial(other)) for other, c in form.variable.terms]
                texts[index] = (coefficient, _quotient(inner, divisor, form.constant // coefficient))
                yield _sum(texts)


def _sum(terms: list[tuple[int, str]]) -> str:
    """Text of a sum: positive terms, negative terms, the constant last, unless it is the only positive term."""
    text = ""
    variables_added = any(coefficient > 0 and product for coefficient, product in terms)
    ordered = sorted(terms, key=lambda term: (not term[1] and variables_added, term[0] < 0))
    for coefficient, product in ordered:
        sign = "-" if coefficient < 0 else "+"
        term = _term(abs(coefficient), product)
        text = f"{text} {sign} {term}" if text else term if sign == "+" else f"-{term}"
    return text or "0"


def _term(coefficient: int, product: str) -> str:
    if not product:
        return str(coefficient)
    return product if coefficient == 1 else f"{coefficient}*{product}"


def _monomial(monomial: Monomial) -> str:
    return "*".join(map(_atom, monomial))


def _atom(atom: Atom) -> str:
    match atom:
        case Axis(name=name):
            return name
        case Floor(inner=inner, divisor=divisor):
            return _quotient(inner, divisor, 0)
        case Max(low=low, inner=inner):
            return f"max({low}, {show(inner)})"


def _quotient(inner: Form, divisor: int, shift: int) -> str:
    """`floor(inner / divisor) + shift` as a floor or as a ceil, whichever is shorter."""
    down = inner + Form.of(shift * divisor)
    up = down - Form.of(divisor - 1)
    return min(f"floor({_closed(show(down))}/{divisor})", f"ceil({_closed(show(up))}/{divisor})", key=len)


def _closed(text: str) -> str:
    """The text, in parentheses where it is a sum, which is where a space stands outside all parentheses."""
    outside = text
    while "(" in outside:
        outside = re.sub(r"\([^()]*\)", "", outside)
    return f"({text})" if " " in outside else text
