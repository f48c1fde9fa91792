"""Leading entries: a token axis as the tokens before a grid, such as class tokens, and the sides of the grid."""

from __future__ import annotations

from functools import lru_cache

from autoadapt.contracts.dims.algebra import Dim


def leading_and_product(dim: Dim) -> tuple[int, tuple[Dim, ...]]:
    """How many entries stand before a grid, and the factors of the grid; an axis of size 1 has no factors.

    Example:
        >>> leading_and_product(Dim.parse("floor(H/16)*floor(W/16) + 1"))
        (1, (Dim('floor(H/16)'), Dim('floor(W/16)')))
    """
    return _found(str(dim))


@lru_cache(maxsize=8192)
def _found(text: str) -> tuple[int, tuple[Dim, ...]]:
    """Cached by text: dims that are equal at all sizes may be written with other factors."""
    prefix, product = 0, (dim := Dim.parse(text))
    if dim.factors is None and dim.added > 0 and (dim - dim.added).factors is not None:
        prefix, product = dim.added, dim - dim.added
    factors = _shared_constant(product.factors or (product,))
    return prefix, tuple(factor for factor in factors if factor != 1)


def _shared_constant(factors: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The factors with a constant multiplied into the image axes in equal parts: `4*H*W` as `2*H` and `2*W`."""
    constant, spatial = factors[0].constant, factors[1:]
    if constant is None or constant < 1 or not spatial or any("B" in factor.axes for factor in spatial):
        return factors
    share = round(constant ** (1 / len(spatial)))
    return tuple(share * factor for factor in spatial) if share ** len(spatial) == constant else factors
