"""Factors: the axes of a tensor as products of atoms, each a function of one input axis or a constant."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import TensorSpec, in_order, listed_along


@dataclass(frozen=True)
class Atom:
    """A factor of an axis."""

    dim: Dim
    """Its size, as a function of the target's input axes."""
    kind: frozenset[str]
    """The input axes along which it lists cells, even if its size is fixed; empty for channels and other constants."""
    stride: Fraction | None
    """Input cells for each cell, in the module that returns the tensor."""
    centres: tuple[float, float] | None = None
    """Centre of the first cell and the step between centres, in cells of the target's input; None where unknown."""
    even: bool = False
    """Whether its cells divide the image evenly at any size, since the module resizes the image first."""


@dataclass(frozen=True)
class Factored:
    """A tensor with its axes factored."""

    spec: TensorSpec
    prefixes: tuple[int, ...]
    """For each axis the entries in front of the product of atoms, such as class tokens."""
    suffixes: tuple[int, ...]
    """For each axis the entries behind the product of atoms."""
    atoms: tuple[tuple[Atom, ...], ...]
    """For each axis its atoms, the slowest first."""

    @functools.cached_property
    def octaves(self) -> dict[str, float]:
        """Binary logarithms of the strides; a sign, as of a reversed axis, is ignored."""
        return {axis: math.log2(abs(stride)) for axis, stride in self.strides.items()}

    @functools.cached_property
    def strides(self) -> dict[str, Fraction]:
        """Input cells for each cell, for all input axes but the batch on which the tensor depends."""
        found = {
            axis: atom.stride
            for atoms in self.atoms
            for atom in atoms
            for axis in atom.kind - {"B"}
            if len(atom.kind) == 1 and atom.stride is not None
        }
        return dict(sorted(found.items()))


POINTS = frozenset({"points"})
"""The kind of a constant axis that lists points, which may be chosen, but neither interpolated nor projected."""


def factored(
    spec: TensorSpec,
    axes: Mapping[str, Dim] | None = None,
    names: Mapping[str, str] | None = None,
    padded: Collection[str] = (),
) -> Factored:
    """Factor the axes of a tensor.

    Args:
        spec: The tensor, in terms of the input axes of its module.
        axes: For each of these its size in terms of the target's input axes, where they differ.
        names: For each of these the target's input axis that it stands for, where they differ.
        padded: Those among them that are padded at their end, so that cells keep their places.

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
    resized = {axis for axis, dim in given.items() if axis not in padded and _is_resized(dim)}

    def atom(factor: Dim) -> Atom:
        kind = frozenset(called.get(axis, axis) for axis in factor.axes)
        slope = factor.slope(next(iter(factor.axes))) if len(factor.axes) == 1 else None
        dim = factor.substitute(given) if given else factor
        found = [one for one in spec.centres if factor.axes == {one.axis}]
        even = any(one.axis in resized for one in found)
        centres = (found[0].first, found[0].step) if found and not even else None
        return Atom(dim, kind, 1 / slope if slope else None, centres, even)

    def of_fixed_size(dim: Dim, along: str) -> Atom:
        return Atom(dim, frozenset({called.get(along, along)}), None)

    def atoms(axis: int, factors: Sequence[Dim]) -> tuple[Atom, ...]:
        if spec.merged is not None and axis == spec.merged.axis:
            parts = [part for part in spec.merged.parts if part.dim != 1]
            return tuple(of_fixed_size(*p) if p.along and not p.dim.axes else atom(p.dim) for p in parts)
        if spec.map_axis is not None and axis - spec.map_axis in (0, 1):
            return (of_fixed_size(spec.dims[axis], "HW"[axis - spec.map_axis]),)
        if axis == spec.points and all(factor.constant is not None for factor in factors):
            return tuple(Atom(factor, POINTS, None) for factor in factors)
        return tuple(atom(factor) for factor in factors)

    split = [_ordered(spec, axis) for axis in range(len(spec.dims))]
    dims = {"dims": tuple(dim.substitute(given) for dim in spec.dims)} if given else {}
    return Factored(
        spec=spec.model_copy(update=dims) if dims else spec,
        prefixes=tuple(prefix for prefix, _, _ in split),
        suffixes=tuple(suffix for _, suffix, _ in split),
        atoms=tuple(atoms(axis, factors) for axis, (_, _, factors) in enumerate(split)),
    )


def _ordered(spec: TensorSpec, axis: int) -> tuple[int, int, tuple[Dim, ...]]:
    """Entries before and behind the cells of an axis, and its factors, the slowest first.

    An axis of cells in unknown order is one factor, and so is one with two factors of one input axis, or with channels.
    """
    extra, factors = listed_along(spec.dims, axis, spec.merged, spec.leading)
    if spec.merged is not None and axis == spec.merged.axis:
        return 0, 0, factors
    cells = [factor for factor in factors if factor.axes and "B" not in factor.axes]
    if len(factors) == len(cells) + 1 and not factors[0].axes and len(cells) > 1:
        return 0, 0, (spec.dims[axis],)  # channels as well, whose place among them no run showed
    if len(cells) < 2:
        return extra, 0, factors
    axes = {min(factor.axes): factor for factor in cells}
    if spec.cells == "unknown" or len(axes) < len(cells):
        return 0, 0, (spec.dims[axis],)
    trailing = min(spec.trailing, extra)
    turned = (axes[axis] for axis in in_order(axes, spec.cells))
    factors = tuple(next(turned) if factor in cells else factor for factor in factors)
    return extra - trailing, trailing, factors


def _is_resized(size: Dim) -> bool:
    """Whether an axis of the input is resized: whether its size differs from the target's, if that is large."""
    return any(size.evaluate(dict.fromkeys(size.axes, large)) != large for large in LARGE)


LARGE = (6720, 6721, 6751)
"""Large sizes, where borders do not matter: a multiple of nearly all strides in use, and two that round up and down."""


def whole(tensor: Factored, other: Factored) -> Factored:
    """A tensor in which axes with extra tokens are one factor, if the other tensor has the same axis."""
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
    """A map of fixed size whose axes of rows and columns are taken for constants; any other tensor as it is."""
    if tensor.spec.map_axis is None:
        return tensor
    return factored(tensor.spec.model_copy(update={"map_axis": None}))


def size_of(atom: Atom) -> int:
    """The size of a constant atom; 0 for any other."""
    return int(atom.dim.constant or 0)


def distance(source: Factored, target: Factored) -> float:
    """How far the strides are apart, in octaves; infinite where the source lacks an axis of the target."""
    have, want = source.octaves, target.octaves
    if not want.keys() <= have.keys():
        return math.inf
    return sum(abs(have[axis] - want[axis]) for axis in want) + 100.0 * (len(have) - len(want))


def kernel_of(source: Atom, target: Atom) -> int:
    """The kernel of average pooling before an axis is resized to its exact size; 1 for none.

    An axis whose size depends on other input axes than the target's is pooled to no less than twice the target's
    resolution, since its target may be larger or smaller, and interpolation reads two cells per axis.
    """
    if source.stride is None or target.stride is None:
        return max(int(size_of(source) / size_of(target)), 1) if size_of(source) and size_of(target) else 1
    ratio = target.stride / source.stride
    if source.dim.axes != target.dim.axes:
        ratio /= 2
    return int(ratio) if ratio >= 2 else 1
