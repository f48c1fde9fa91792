"""Leading entries: an axis of tokens as those that stand before a grid, and the sides of that grid."""

from __future__ import annotations

from functools import lru_cache

from autoadapt.contracts.dims.algebra import Dim

__all__ = ["leading_and_product"]


def leading_and_product(dim: Dim) -> tuple[int, tuple[Dim, ...]]:
    """An axis as leading entries, such as class tokens, and the factors of a product; unit axes have no factors.

    Example:
        >>> leading_and_product(Dim.parse("floor(H/16)*floor(W/16) + 1"))
        (1, (Dim('floor(H/16)'), Dim('floor(W/16)')))
    """
    return _found(str(dim))


@lru_cache(maxsize=8192)
def _found(text: str) -> tuple[int, tuple[Dim, ...]]:
    """By the text, since dims that are equal at all sizes may be written differently."""
    prefix, product = 0, (dim := Dim.parse(text))
    if dim.factors is None:
        constant = sum(coefficient for coefficient, atoms in dim.terms if not atoms)
        if constant > 0 and (dim - constant).factors is not None:
            prefix, product = constant, dim - constant
    factors = _shared_constant(product.factors or (product,))
    return prefix, tuple(factor for factor in factors if factor != 1)


def _shared_constant(factors: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """A constant belongs to the image axes it multiplies: `2*ceil(H/4)`, and `4*ceil(H/4)*ceil(W/4)` in equal parts."""
    constant, spatial = factors[0].constant, factors[1:]
    if constant is None or constant < 1 or not spatial or any("B" in factor.axes for factor in spatial):
        return factors
    share = round(constant ** (1 / len(spatial)))
    return tuple(share * factor for factor in spatial) if share ** len(spatial) == constant else factors
