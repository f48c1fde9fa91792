"""Layouts: the shortest chain of operations from one tensor to another, found by the algebra of their axes.

Each axis is a product of atoms: functions of one input axis, or constants. Atoms of the source are assigned to atoms of
the target at least cost; what differs then is dropped, rearranged, pooled, projected or resized.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

from autoadapt.dims import Dim
from autoadapt.operations import (
    Cast,
    DropPrefix,
    Mean,
    Operation,
    Pool,
    Project,
    Rearrange,
    Resize,
)
from autoadapt.signature import TensorSpec

__all__ = ["Atom", "Factored", "Refusal", "chain", "distance", "factored"]


@dataclass(frozen=True)
class Refusal:
    """Why no chain leads from a source to a target."""

    why: str


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

Layout: TypeAlias = tuple[tuple[str, ...], ...]
"""Names of the atoms on each axis."""


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


def chain(
    source: TensorSpec | Factored, target: TensorSpec, *, project: bool = False
) -> tuple[Operation, ...] | Refusal:
    """The shortest chain of operations from one tensor to another.

    Args:
        source: What there is.
        target: What is wanted.
        project: Put a projection in even where the channels agree.

    Returns:
        The operations, none where the tensors are alike; or why there is no honest chain.
    """
    have = factored(source) if isinstance(source, TensorSpec) else source
    spec = have.spec
    learned = spec.is_floating and target.is_floating and "feature" in (spec.role, target.role)
    if spec.dims == target.dims and not (project and learned):
        return _cast(spec, target)
    if spec.is_floating != target.is_floating:
        return Refusal(f"{spec.dtype} values are no {target.dtype} values")
    want = factored(target)
    have, want = _whole(have, target.dims), _whole(want, spec.dims)
    if any(want.prefixes):
        count = max(want.prefixes)
        has_them = any(have.prefixes) and not project
        why = "on a grid of another size, and tokens that are no cells are not interpolated" if has_them else ""
        return Refusal(f"the target has {_leading(count)} {why or 'that the source lacks'}")
    drops = tuple(DropPrefix(axis=axis, count=count) for axis, count in enumerate(have.prefixes) if count)
    assigned = _assign(have.atoms, want.atoms)
    if isinstance(assigned, Refusal):
        return assigned
    if why := _differing_points(assigned):
        return Refusal(why)
    if not learned and not assigned.is_exact:
        return Refusal(f"a {target.role} leaf is passed on or picked from, never projected or interpolated")
    cast = _cast(spec, target)
    if isinstance(cast, Refusal):
        return cast
    return (*drops, *_arranged(assigned, project=project and learned), *cast)


def _leading(count: int) -> str:
    return "1 leading token" if count == 1 else f"{count} leading tokens"


def _differing_points(assigned: _Assignment) -> str:
    """Why sets of points of different sizes do not serve each other; empty where they agree."""
    for name in assigned.resampled:
        if assigned.then[name].kind == POINTS:
            have, want = _size(assigned.before[name]), _size(assigned.then[name])
            told = '; thin="repeat" takes some of them again' if have < want else ""
            return f"there are {have} points and {want} are wanted{told}"
    return ""


def _cast(source: TensorSpec, target: TensorSpec) -> tuple[Operation, ...] | Refusal:
    if source.dtype == target.dtype:
        return ()
    if source.is_floating != target.is_floating or "bool" in (source.dtype, target.dtype):
        return Refusal(f"{source.dtype} values are no {target.dtype} values")
    return (Cast(dtype=target.dtype),)


def _whole(tensor: Factored, others: Sequence[Dim]) -> Factored:
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


@dataclass(frozen=True)
class _Assignment:
    """Which atoms of the source become which of the target."""

    source: Layout
    target: Layout
    before: dict[str, Atom]
    then: dict[str, Atom]

    @property
    def resampled(self) -> list[str]:
        return [name for name in self._changed if self.then[name].kind]

    @property
    def projected(self) -> list[str]:
        return [name for name in self._changed if not self.then[name].kind]

    @property
    def _changed(self) -> list[str]:
        return [name for name in self.shared if self.before[name].dim != self.then[name].dim]

    @property
    def shared(self) -> list[str]:
        return [name for name in self.before if name in self.then]

    @property
    def averaged(self) -> list[str]:
        return [name for name in self.before if name not in self.then]

    @property
    def is_exact(self) -> bool:
        return not (self.resampled or self.projected or self.averaged)

    def cost(self) -> tuple[int, ...]:
        """Learned channels first, then axes averaged away, then whether the order is kept."""
        learned = sum(_size(self.before[name]) * _size(self.then[name]) for name in self.projected)
        order = [name for axis in self.source for name in axis if name in self.then]
        kept = order == [name for axis in self.target for name in axis]
        return len(self.projected), learned, len(self.averaged), int(not kept)


def _size(atom: Atom) -> int:
    return int(atom.dim.constant or 0)


Numbered: TypeAlias = tuple[int, Atom]
Axes: TypeAlias = Sequence[Sequence[Atom]]


def _assign(source: Axes, target: Axes) -> _Assignment | Refusal:
    """The assignment of least cost; ties go to the first in the order of the axes."""
    left, right = _numbered(source), _numbered(target)
    kinds = dict.fromkeys(atom.kind for _, atom in (*left, *right))
    options = []
    for kind in kinds:
        found = _pairings([x for x in left if x[1].kind == kind], [x for x in right if x[1].kind == kind])
        if isinstance(found, Refusal):
            return found
        options.append(found)
    complete = [_named(source, target, dict(itertools.chain(*pairs))) for pairs in itertools.product(*options)]
    best = min(complete, key=lambda assignment: assignment.cost())
    if len(best.projected) > 1:
        return Refusal("more than one constant axis differs, and only channels are learned")
    return best


def _numbered(axes: Axes) -> list[Numbered]:
    return list(enumerate(itertools.chain(*axes)))


def _pairings(left: Sequence[Numbered], right: Sequence[Numbered]) -> list[tuple[tuple[int, int], ...]] | Refusal:
    """All ways to serve the target's atoms of one kind by the source's, as pairs of numbers (target, source)."""
    example = (right or left)[0][1]
    batch = "B" in example.kind
    if len(left) < len(right):
        return Refusal(f"nothing in the source has an axis like {example.dim}")
    if not example.kind and len(left) > len(right):
        return Refusal(f"the source has one constant axis more than the target ({left[-1][1].dim})")
    if batch and len(left) != len(right):
        return Refusal("samples of a batch are not averaged")
    found = []
    for chosen in itertools.permutations(left, len(right)):
        pairs = list(zip(right, chosen, strict=True))
        if not batch or all(target.dim == atom.dim for (_, target), (_, atom) in pairs):
            found.append(tuple((number, other) for (number, _), (other, _) in pairs))
    return found or Refusal(f"the batch axis differs: {left[0][1].dim} against {right[0][1].dim}")


def _named(source: Axes, target: Axes, pairs: Mapping[int, int]) -> _Assignment:
    """Give atoms that serve each other one readable name."""
    names = _readable([atom for _, atom in _numbered(source)])

    def layout(axes: Axes, called: Sequence[str]) -> Layout:
        numbers = iter(called)
        return tuple(tuple(next(numbers) for _ in axis) for axis in axes)

    then = [names[pairs[number]] for number, _ in _numbered(target)]
    return _Assignment(
        source=layout(source, names),
        target=layout(target, then),
        before={name: atom for name, (_, atom) in zip(names, _numbered(source), strict=True)},
        then={name: atom for name, (_, atom) in zip(then, _numbered(target), strict=True)},
    )


def _readable(atoms: Sequence[Atom]) -> list[str]:
    names: list[str] = []
    for atom in atoms:
        letter = min(atom.kind)[0].lower() if atom.kind else "c"
        fresh = (letter, *(f"{letter}{i}" for i in range(1, 99)))
        names.append(next(name for name in fresh if name not in names))
    return names


def _arranged(assigned: _Assignment, *, project: bool) -> tuple[Operation, ...]:
    """The operations of an assignment, in the order that costs least."""
    reduced, layout = _averages(assigned)
    work = _works(assigned, project=project)
    canonical = _canonical(assigned)
    layouts = list(dict.fromkeys([assigned.target, layout, canonical]))
    routes = []
    for route in itertools.product(layouts, repeat=len(work)):
        if all(_allows(where, one) for where, one in zip(route, work, strict=True)):
            path = [layout, *route, assigned.target]
            turns = sum(left != right for left, right in itertools.pairwise(path))
            routes.append((turns, route))
    best = min(routes, key=lambda option: option[0])[1]
    state = _State(layout, {name: atom.dim for name, atom in assigned.before.items()}, [*reduced])
    for where, one in zip(best, work, strict=True):
        state.turn(where)
        state.do(one)
    state.turn(assigned.target)
    return tuple(state.steps)


@dataclass(frozen=True)
class _Work:
    """Something that must happen to atoms, in a layout that allows it."""

    kind: str  # pool, project, resize or drop
    then: dict[str, Dim]
    kernel: dict[str, int]


def _works(assigned: _Assignment, *, project: bool) -> list[_Work]:
    """Pool, project, resize, in this order: projections run where there are fewest cells."""
    work = []
    sizes = {name: atom.dim for name, atom in assigned.before.items()}
    pooled = {name: k for name in assigned.resampled if (k := _kernel(assigned, name)) > 1}
    if pooled:
        sizes |= {name: sizes[name].ceildiv(kernel) for name, kernel in pooled.items()}
        work.append(_Work("pool", {name: sizes[name] for name in pooled}, pooled))
    left = {n: assigned.then[n].dim for n in assigned.resampled if sizes[n] != assigned.then[n].dim}
    channel = assigned.projected or (_channel(assigned) if project else [])
    then = {name: assigned.then[name].dim for name in channel}
    learned = [_Work("project", {name: dim}, {}) for name, dim in then.items() if dim != 0]
    emptied = [_Work("drop", {name: dim}, {}) for name, dim in then.items() if dim == 0]  # cannot be resized
    return [*work, *learned, *([_Work("resize", left, {})] if left else []), *emptied]


def _channel(assigned: _Assignment) -> list[str]:
    """The constant axis that a projection would mix where nothing differs: the largest, if there is one."""
    constants = [name for name in assigned.shared if not assigned.before[name].kind]
    return sorted(constants, key=lambda name: -_size(assigned.before[name]))[:1]


def _kernel(assigned: _Assignment, name: str) -> int:
    """How many cells to average before an axis is brought to its exact size; 1 for none.

    Interpolation sees two cells a side, so an axis of fixed size is averaged to no less than twice the target's
    resolution: its target may turn out larger or smaller.
    """
    source, target = assigned.before[name], assigned.then[name]
    if source.stride is None or target.stride is None:
        return 1
    ratio = target.stride / source.stride
    if source.dim.axes != target.dim.axes:
        ratio /= 2
    return int(ratio) if ratio >= 2 else 1


def _averages(assigned: _Assignment) -> tuple[list[Operation], Layout]:
    """Average over the axes that the target does not have; axes that mix such with others are split first."""
    gone = set(assigned.averaged)
    layout = assigned.source
    steps: list[Operation] = []
    if not gone:
        return steps, layout
    if any(gone & set(axis) and not set(axis) <= gone for axis in layout):
        split = tuple((name,) for axis in layout for name in axis)
        steps.append(_turn(layout, split, {name: atom.dim for name, atom in assigned.before.items()}))
        layout = split
    axes = tuple(i for i, axis in enumerate(layout) if axis and set(axis) <= gone)
    steps.append(Mean(axes=axes))
    return steps, tuple(axis for i, axis in enumerate(layout) if i not in axes)


def _canonical(assigned: _Assignment) -> Layout:
    """Batch, channels, then the spatial atoms in the target's order."""
    names = [name for axis in assigned.target for name in axis]
    batch = [name for name in names if "B" in assigned.then[name].kind]
    spatial = [name for name in names if assigned.then[name].kind and name not in batch]
    rest = [name for name in names if name not in (*batch, *spatial)]
    return (tuple(batch), tuple(rest), *((name,) for name in spatial))


def _allows(layout: Layout, work: _Work) -> bool:
    """Whether torch has a layer for the work in this layout."""
    alone = {axis[0]: i for i, axis in enumerate(layout) if len(axis) == 1}
    if not all(name in alone for name in work.then):
        return False
    if work.kind == "drop":
        return True
    if work.kind == "project":
        (name,) = work.then
        return alone[name] == len(layout) - 1 or (alone[name] == 1 and 3 <= len(layout) <= 5)
    return 3 <= len(layout) <= 5 and all(alone[name] >= 2 for name in work.then)


@dataclass
class _State:
    """A chain in the making: the layout and sizes reached, and the steps so far."""

    layout: Layout
    sizes: dict[str, Dim]
    steps: list[Operation]

    def turn(self, layout: Layout) -> None:
        if layout != self.layout:
            self.steps.append(_turn(self.layout, layout, self.sizes))
            self.layout = layout

    def do(self, work: _Work) -> None:
        before = [self._size(axis) for axis in self.layout]
        if work.kind == "pool":
            kernels = [work.kernel.get(axis[0], 1) if len(axis) == 1 else 1 for axis in self.layout[2:]]
            self.steps.append(Pool(kernel=tuple(kernels)))
        self.sizes |= work.then
        if work.kind == "resize":
            self.steps.append(Resize(dims=tuple(self._size(axis) for axis in self.layout[2:])))
        if work.kind in ("project", "drop"):
            (name,) = work.then
            axis = self.layout.index((name,))
            source, target = before[axis].constant, work.then[name].constant
            assert source is not None, "only constants are projected"
            assert target is not None, "only constants are projected"
            form: Literal["linear", "conv"] = "linear" if axis == len(self.layout) - 1 else "conv"
            self.steps.append(
                Project(form=form, source=source, target=target) if target else DropPrefix(axis=axis, count=source)
            )

    def _size(self, axis: tuple[str, ...]) -> Dim:
        size = Dim(1)
        for name in axis:
            size = size * self.sizes[name]
        return size


def _turn(layout: Layout, then: Layout, sizes: dict[str, Dim]) -> Rearrange:
    split = {name for axis in layout if len(axis) > 1 for name in axis}
    return Rearrange(pattern=f"{_side(layout)} -> {_side(then)}", sizes={name: sizes[name] for name in sorted(split)})


def _side(layout: Layout) -> str:
    return " ".join("1" if not axis else axis[0] if len(axis) == 1 else f"({' '.join(axis)})" for axis in layout)


def distance(source: Factored, target: TensorSpec) -> float:
    """How far resampling must go, in octaves of stride; infinite where an axis cannot be made."""
    have, want = source.strides, factored(target).strides
    if not set(want) <= set(have):
        return float("inf")
    octaves = sum(abs(math.log2(have[axis] / want[axis])) for axis in want)
    return octaves + 100.0 * len(set(have) - set(want))
