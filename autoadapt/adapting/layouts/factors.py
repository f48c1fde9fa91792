"""Factors: the axes of a tensor taken apart into what follows one input axis each, and constants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import TensorSpec

__all__ = ["POINTS", "Atom", "Factored", "distance", "factored", "size_of", "whole"]


@dataclass(frozen=True)
class Atom:
    """A factor of an axis."""

    dim: Dim
    """Its size in terms of the target's input axes."""
    kind: frozenset[str]
    """The input axes it follows, also where its size is fixed; empty for channels and other constants."""
    stride: Fraction | None
    """Input cells per cell, in the module that made it."""


@dataclass(frozen=True)
class Factored:
    """A tensor whose axes are taken apart."""

    spec: TensorSpec
    prefixes: tuple[int, ...]
    """Leading entries of each axis that stand before the product, such as class tokens."""
    atoms: tuple[tuple[Atom, ...], ...]

    @property
    def strides(self) -> dict[str, Fraction]:
        """Input cells per cell, for each input axis (not the batch) that the tensor follows."""
        found = {
            axis: atom.stride
            for atoms in self.atoms
            for atom in atoms
            for axis in atom.kind - {"B"}
            if len(atom.kind) == 1 and atom.stride is not None
        }
        return dict(sorted(found.items()))


POINTS = frozenset({"points"})
"""The kind of a constant axis that lists points: these are chosen, never interpolated or mixed up with channels."""


def factored(
    spec: TensorSpec, axes: Mapping[str, Dim] | None = None, names: Mapping[str, str] | None = None
) -> Factored:
    """Take the axes of a tensor apart.

    Args:
        spec: The tensor, in terms of the input axes of the module that makes it.
        axes: What each of these is in terms of other input axes.
        names: Which of the other input axes each of these follows.

    Example:
        >>> tokens = factored(TensorSpec.parse("f32[B, floor(H/16)*floor(W/16) + 1, 384]"))
        >>> tokens.prefixes, [str(atom.dim) for atom in tokens.atoms[1]], tokens.strides["H"]
        ((0, 1, 0), ['floor(H/16)', 'floor(W/16)'], Fraction(16, 1))
    """
    given, called = dict(axes or {}), dict(names or {})

    def atom(factor: Dim) -> Atom:
        kind = frozenset(called.get(axis, axis) for axis in factor.axes)
        slope = factor.slope(next(iter(factor.axes))) if len(factor.axes) == 1 else None
        return Atom(factor.substitute(given) if given else factor, kind, 1 / slope if slope else None)

    def atoms(axis: int, factors: Sequence[Dim]) -> tuple[Atom, ...]:
        if axis == spec.points and all(factor.constant is not None for factor in factors):
            return tuple(Atom(factor, POINTS, None) for factor in factors)
        return tuple(atom(factor) for factor in factors)

    split = [_split(dim) for dim in spec.dims]
    dims = tuple(dim.substitute(given) for dim in spec.dims) if given else spec.dims
    return Factored(
        spec=spec.model_copy(update={"dims": dims}),
        prefixes=tuple(prefix for prefix, _ in split),
        atoms=tuple(atoms(axis, factors) for axis, (_, factors) in enumerate(split)),
    )


def _split(dim: Dim) -> tuple[int, tuple[Dim, ...]]:
    """An axis as leading entries and a product; unit axes have no factors."""
    prefix, product = 0, dim
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


def whole(tensor: Factored, others: Sequence[Dim]) -> Factored:
    """Leave axes whole that have leading entries and that the other tensor has just so."""
    kept = [bool(prefix) and dim in others for prefix, dim in zip(tensor.prefixes, tensor.spec.dims, strict=True)]
    if not any(kept):
        return tensor

    def one(atoms: tuple[Atom, ...], dim: Dim) -> tuple[Atom, ...]:
        return (Atom(dim, frozenset().union(*(atom.kind for atom in atoms)), None),)

    rows = zip(kept, tensor.atoms, tensor.spec.dims, strict=True)
    return Factored(
        spec=tensor.spec,
        prefixes=tuple(0 if keep else n for keep, n in zip(kept, tensor.prefixes, strict=True)),
        atoms=tuple(one(atoms, dim) if keep else atoms for keep, atoms, dim in rows),
    )


def size_of(atom: Atom) -> int:
    """The size of a constant; 0 for what follows the input."""
    return int(atom.dim.constant or 0)


def distance(source: Factored, target: TensorSpec) -> float:
    """How far resampling must go, in octaves of stride; infinite where an axis cannot be made."""
    have, want = source.strides, factored(target).strides
    if not set(want) <= set(have):
        return float("inf")
    octaves = sum(abs(math.log2(have[axis] / want[axis])) for axis in want)
    return octaves + 100.0 * len(set(have) - set(want))
