"""Factors: the axes of a tensor taken apart into what follows one input axis each, and constants."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from autoadapt.contracts.dims import Dim, leading_and_product
from autoadapt.contracts.signature import TensorSpec, in_order

__all__ = ["LARGE", "POINTS", "Atom", "Factored", "distance", "factored", "kernel_of", "size_of", "unmapped", "whole"]


@dataclass(frozen=True)
class Atom:
    """A factor of an axis."""

    dim: Dim
    """Its size in terms of the target's input axes."""
    kind: frozenset[str]
    """The input axes it follows, also where its size is fixed; empty for channels and other constants."""
    stride: Fraction | None
    """Input cells per cell, in the module that made it."""
    centres: tuple[float, float] | None = None
    """Where its first cell lies and how far apart cells are, in cells of the target's input; None where unknown."""
    even: bool = False
    """Whether its cells cover the image evenly whatever its size is, since it is resized before it is read."""


@dataclass(frozen=True)
class Factored:
    """A tensor whose axes are taken apart."""

    spec: TensorSpec
    prefixes: tuple[int, ...]
    """Leading entries of each axis that stand before the product, such as class tokens."""
    suffixes: tuple[int, ...]
    """Entries of each axis that stand behind the product."""
    atoms: tuple[tuple[Atom, ...], ...]

    @functools.cached_property
    def octaves(self) -> dict[str, float]:
        """Binary logarithms of the strides, in whichever direction they go."""
        return {axis: math.log2(abs(stride)) for axis, stride in self.strides.items()}

    @functools.cached_property
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
    spec: TensorSpec,
    axes: Mapping[str, Dim] | None = None,
    names: Mapping[str, str] | None = None,
    padded: Collection[str] = (),
) -> Factored:
    """Take the axes of a tensor apart.

    Args:
        spec: The tensor, in terms of the input axes of the module that makes it.
        axes: What each of these is in terms of other input axes.
        names: Which of the other input axes each of these follows.
        padded: Those among them that are longer for zeros at their end, so that cells lie where they lay.

    Example:
        >>> tokens = factored(TensorSpec.parse("f32[B, floor(H/16)*floor(W/16) + 1, 384]"))
        >>> tokens.prefixes, [str(atom.dim) for atom in tokens.atoms[1]], tokens.strides["H"]
        ((0, 1, 0), ['floor(H/16)', 'floor(W/16)'], Fraction(16, 1))
    """
    given, called = dict(axes or {}), dict(names or {})
    folded = {axis: dim for axis, dim in given.items() if axis == "B" and len(dim.axes) > 1}  # frames beside samples
    given = {axis: dim for axis, dim in given.items() if axis not in folded}
    called = {axis: name for axis, name in called.items() if axis not in folded}
    spec = spec.with_dims([dim.substitute(folded) for dim in spec.dims]) if folded else spec
    resized = {axis: dim for axis, dim in given.items() if axis not in padded}

    def atom(factor: Dim) -> Atom:
        kind = frozenset(called.get(axis, axis) for axis in factor.axes)
        slope = factor.slope(next(iter(factor.axes))) if len(factor.axes) == 1 else None
        dim = factor.substitute(given) if given else factor
        even = any(factor.axes == {one.axis} and _is_resized(resized.get(one.axis)) for one in spec.centres)
        return Atom(dim, kind, 1 / slope if slope else None, _centres(spec, factor, resized), even)

    def atoms(axis: int, factors: Sequence[Dim]) -> tuple[Atom, ...]:
        if spec.map_axis is not None and axis - spec.map_axis in (0, 1):  # of fixed size, as rows or columns
            side = "HW"[axis - spec.map_axis]
            return (Atom(spec.dims[axis], frozenset({called.get(side, side)}), None),)
        if axis == spec.points and all(factor.constant is not None for factor in factors):
            return tuple(Atom(factor, POINTS, None) for factor in factors)
        return tuple(atom(factor) for factor in factors)

    split = [_ordered(spec, *leading_and_product(dim), dim) for dim in spec.dims]
    dims = tuple(dim.substitute(given) for dim in spec.dims) if given else spec.dims
    return Factored(
        spec=spec.model_copy(update={"dims": dims}),
        prefixes=tuple(prefix for prefix, _, _ in split),
        suffixes=tuple(suffix for _, suffix, _ in split),
        atoms=tuple(atoms(axis, factors) for axis, (_, _, factors) in enumerate(split)),
    )


def _centres(spec: TensorSpec, factor: Dim, given: Mapping[str, Dim]) -> tuple[float, float] | None:
    """Where cells lie along the axis that a factor follows; unknown where that axis is resized before."""
    found = [one for one in spec.centres if factor.axes == {one.axis}]
    return (found[0].first, found[0].step) if found and not _is_resized(given.get(found[0].axis)) else None


def _ordered(spec: TensorSpec, extra: int, factors: tuple[Dim, ...], dim: Dim) -> tuple[int, int, tuple[Dim, ...]]:
    """Entries before and behind the cells of an axis, and its factors in the order in which cells stand on it.

    An axis of cells whose order is not known stays whole, and so does one with a side twice.
    """
    cells = [factor for factor in factors if factor.axes and "B" not in factor.axes]
    if len(cells) < 2:
        return extra, 0, factors
    axes = {min(factor.axes): factor for factor in cells}
    if spec.cells == "unknown" or len(axes) < len(cells):
        return 0, 0, (dim,)
    trailing = min(spec.trailing, extra)
    turned = (axes[axis] for axis in in_order(axes, spec.cells))
    factors = tuple(next(turned) if factor in cells else factor for factor in factors)
    return extra - trailing, trailing, factors


def _is_resized(size: Dim | None) -> bool:
    """Whether an axis that is read has another size than the axis that is given; small ones may be enlarged."""
    return size is not None and any(size.evaluate(dict.fromkeys(size.axes, large)) != large for large in LARGE)


LARGE = (6720, 6721, 6751)
"""Sizes that are far from all borders: a multiple of nearly all strides in use, and two that round up and down."""


def whole(tensor: Factored, other: Factored) -> Factored:
    """Leave axes whole that have entries besides cells and that the other tensor has just so."""
    extras = list(zip(tensor.prefixes, tensor.suffixes, strict=True))
    alike = tensor.spec.order == other.spec.order
    shared = [alike and dim in other.spec.dims for dim in tensor.spec.dims]
    kept = [both and any(extra) for both, extra in zip(shared, extras, strict=True)]
    if not any(kept):
        return tensor

    def one(atoms: tuple[Atom, ...], dim: Dim) -> tuple[Atom, ...]:
        return (Atom(dim, frozenset().union(*(atom.kind for atom in atoms)), None),)

    rows = zip(kept, tensor.atoms, tensor.spec.dims, strict=True)
    return Factored(
        spec=tensor.spec,
        prefixes=tuple(0 if keep else before for keep, (before, _) in zip(kept, extras, strict=True)),
        suffixes=tuple(0 if keep else behind for keep, (_, behind) in zip(kept, extras, strict=True)),
        atoms=tuple(one(atoms, dim) if keep else atoms for keep, atoms, dim in rows),
    )


def unmapped(tensor: Factored) -> Factored:
    """A map of fixed size without knowledge of its rows and columns; all else as it is."""
    if tensor.spec.map_axis is None:
        return tensor
    return factored(tensor.spec.model_copy(update={"map_axis": None}))


def size_of(atom: Atom) -> int:
    """The size of a constant; 0 for what follows the input."""
    return int(atom.dim.constant or 0)


def distance(source: Factored, target: Factored) -> float:
    """How far resampling must go, in octaves of stride; infinite where an axis cannot be made."""
    have, want = source.octaves, target.octaves
    if not want.keys() <= have.keys():
        return math.inf
    return sum(abs(have[axis] - want[axis]) for axis in want) + 100.0 * (len(have) - len(want))


def kernel_of(source: Atom, target: Atom) -> int:
    """How many cells to average before an axis is brought to its exact size; 1 for none.

    Interpolation sees two cells a side, so an axis of fixed size is averaged to no less than twice the target's
    resolution: its target may turn out larger or smaller.
    """
    if source.stride is None or target.stride is None:
        return max(int(size_of(source) / size_of(target)), 1) if size_of(source) and size_of(target) else 1
    ratio = target.stride / source.stride
    if source.dim.axes != target.dim.axes:
        ratio /= 2
    return int(ratio) if ratio >= 2 else 1
