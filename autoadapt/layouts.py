"""Layouts: the shortest chain of operations from one tensor to another, found by the algebra of their axes.

Each axis is a product of atoms: functions of one input axis, or constants. Atoms of the source are assigned to atoms of
the target at least cost; what differs then is dropped, rearranged, pooled, projected or resized.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

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
    after,
)
from autoadapt.signature import TensorSpec

__all__ = ["Refusal", "chain", "distance", "strides"]


@dataclass(frozen=True)
class Refusal:
    """Why no chain leads from a source to a target."""

    why: str


@dataclass(frozen=True)
class _Atom:
    """A factor of an axis; atoms of source and target that serve each other share a name."""

    name: str
    dim: Dim

    @property
    def axes(self) -> frozenset[str]:
        return self.dim.axes


Layout: TypeAlias = tuple[tuple[str, ...], ...]
"""Names of the atoms on each axis."""


def chain(source: TensorSpec, target: TensorSpec, *, project: bool = False) -> tuple[Operation, ...] | Refusal:
    """The shortest chain of operations from one tensor to another.

    Args:
        source: What there is.
        target: What is wanted; its dims depend on the same input axes.
        project: Put a projection in even where the channels agree.

    Returns:
        The operations, none where the tensors are alike; or why there is no honest chain.
    """
    learned = source.is_floating and target.is_floating and "feature" in (source.role, target.role)
    if source.dims == target.dims and not (project and learned):
        return _cast(source, target)
    if source.is_floating != target.is_floating:
        return Refusal(f"{source.dtype} values are no {target.dtype} values")
    prefixes = [_prefix(left, target.dims) for left in source.dims]
    drops = tuple(DropPrefix(axis=axis, count=count) for axis, count in enumerate(prefixes) if count)
    bare = _all_after(drops, source)
    assigned = _assign(bare.dims, target.dims)
    if isinstance(assigned, Refusal):
        return assigned
    if not learned and not assigned.is_exact:
        return Refusal(f"a {target.role} leaf is passed on or picked from, never projected or interpolated")
    steps = (*drops, *_arranged(assigned, project=project and learned))
    return (*steps, *_cast(source, target))


def _cast(source: TensorSpec, target: TensorSpec) -> tuple[Operation, ...] | Refusal:
    if source.dtype == target.dtype:
        return ()
    if source.is_floating != target.is_floating or "bool" in (source.dtype, target.dtype):
        return Refusal(f"{source.dtype} values are no {target.dtype} values")
    return (Cast(dtype=target.dtype),)


def _all_after(operations: Sequence[Operation], spec: TensorSpec) -> TensorSpec:
    for operation in operations:
        spec = after(operation, spec)
    return spec


def _prefix(dim: Dim, targets: Sequence[Dim]) -> int:
    """How many leading entries stand before a product of atoms; none where the target has the very same axis."""
    if dim in targets or dim.factors is not None:
        return 0
    constants = [coefficient for coefficient, atoms in dim.terms if not atoms]
    rest = dim - sum(constants)
    return constants[0] if constants and constants[0] > 0 and rest.factors is not None else 0


@dataclass(frozen=True)
class _Assignment:
    """Which atoms of the source become which of the target."""

    source: Layout
    target: Layout
    before: dict[str, Dim]
    then: dict[str, Dim]

    @property
    def resampled(self) -> list[str]:
        return [n for n in self.shared if self.before[n] != self.then[n] and self.before[n].axes]

    @property
    def projected(self) -> list[str]:
        return [n for n in self.shared if self.before[n] != self.then[n] and not self.before[n].axes]

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
        learned = sum(int(self.before[n].constant or 0) * int(self.then[n].constant or 0) for n in self.projected)
        order = [name for axis in self.source for name in axis if name in self.then]
        kept = order == [name for axis in self.target for name in axis]
        return len(self.projected), learned, len(self.averaged), int(not kept)


def _assign(source: Sequence[Dim], target: Sequence[Dim]) -> _Assignment | Refusal:
    left, right = _atoms(source), _atoms(target)
    groups = {atom.axes: None for axis in (*left, *right) for atom in axis}
    options = [_pairings(_of(left, axes), _of(right, axes)) for axes in groups]
    refused = [option for option in options if isinstance(option, Refusal)]
    if refused:
        return refused[0]
    complete = [
        _named(left, right, dict(itertools.chain.from_iterable(pairs)))
        for pairs in itertools.product(*[option for option in options if not isinstance(option, Refusal)])
    ]
    best = min(complete, key=lambda assignment: assignment.cost())
    if len(best.projected) > 1:
        return Refusal("more than one constant axis differs, and only channels are learned")
    return best


def _atoms(dims: Sequence[Dim]) -> list[list[_Atom]]:
    """The atoms of every axis, each with a name of its own for now; unit axes have none."""
    count = itertools.count()
    return [
        [_Atom(str(next(count)), factor) for factor in (dim.factors or (dim,)) if factor != 1] for dim in dims
    ]


def _of(axes: Sequence[Sequence[_Atom]], group: frozenset[str]) -> list[_Atom]:
    return [atom for axis in axes for atom in axis if atom.axes == group]


Pairs: TypeAlias = tuple[tuple[str, str], ...]
"""Pairs of atom names, target to source."""


def _pairings(left: Sequence[_Atom], right: Sequence[_Atom]) -> list[Pairs] | Refusal:
    """All ways to serve the target's atoms of one kind by the source's."""
    example = (right or left)[0].dim
    if len(left) < len(right):
        return Refusal(f"nothing in the source has an axis like {example}")
    if not example.axes and len(left) > len(right):
        return Refusal(f"the source has one constant axis more than the target ({left[-1].dim})")
    if "B" in example.axes and len(left) != len(right):
        return Refusal("samples of a batch are not averaged")
    found = []
    for chosen in itertools.permutations(left, len(right)):
        equal = all(source.dim == atom.dim for source, atom in zip(chosen, right, strict=True))
        if "B" not in example.axes or equal:
            found.append(tuple((atom.name, source.name) for source, atom in zip(chosen, right, strict=True)))
    return found or Refusal(f"the batch axis differs: {left[0].dim} against {right[0].dim}")


def _named(left: Sequence[Sequence[_Atom]], right: Sequence[Sequence[_Atom]], pairs: dict[str, str]) -> _Assignment:
    """Give paired atoms one readable name."""
    names = _readable(left)
    return _Assignment(
        source=tuple(tuple(names[atom.name] for atom in axis) for axis in left),
        target=tuple(tuple(names[pairs[atom.name]] for atom in axis) for axis in right),
        before={names[atom.name]: atom.dim for axis in left for atom in axis},
        then={names[pairs[atom.name]]: atom.dim for axis in right for atom in axis},
    )


def _readable(axes: Sequence[Sequence[_Atom]]) -> dict[str, str]:
    names: dict[str, str] = {}
    for atom in itertools.chain.from_iterable(axes):
        letter = min(atom.axes).lower() if atom.axes else "c"
        taken = set(names.values())
        fresh = (letter, *(f"{letter}{i}" for i in range(1, 99)))
        names[atom.name] = next(name for name in fresh if name not in taken)
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
    state = _State(layout, dict(assigned.before), [*reduced])
    for where, one in zip(best, work, strict=True):
        state.turn(where)
        state.do(one)
    state.turn(assigned.target)
    return tuple(state.steps)


@dataclass(frozen=True)
class _Work:
    """Something that must happen to atoms, in a layout that allows it."""

    kind: str  # pool, project or resize
    then: dict[str, Dim]
    kernel: dict[str, int]


def _works(assigned: _Assignment, *, project: bool) -> list[_Work]:
    """Pool, project, resize, in this order: projections run where there are fewest cells."""
    work = []
    pooled = {n: k for n in assigned.resampled if (k := _kernel(assigned.before[n], assigned.then[n])) > 1}
    sizes = dict(assigned.before)
    if pooled:
        sizes |= {name: sizes[name].ceildiv(kernel) for name, kernel in pooled.items()}
        work.append(_Work("pool", {name: sizes[name] for name in pooled}, pooled))
    channel = assigned.projected or (_channel(assigned) if project else [])
    left = [name for name in assigned.resampled if sizes[name] != assigned.then[name]]
    resize = [_Work("resize", {name: assigned.then[name] for name in left}, {})] if left else []
    projections = [_Work("project", {name: assigned.then[name]}, {}) for name in channel]
    shrinks = any(_ratio(sizes[name], assigned.then[name]) > 1 for name in left)
    return [*work, *resize, *projections] if shrinks else [*work, *projections, *resize]


def _channel(assigned: _Assignment) -> list[str]:
    """The constant axis that a projection would mix where nothing differs: the largest, if there is one."""
    constants = [name for name in assigned.shared if not assigned.before[name].axes]
    return sorted(constants, key=lambda name: -int(assigned.before[name].constant or 0))[:1]


def _ratio(source: Dim, target: Dim) -> Fraction:
    """How many source cells make one target cell."""
    axis = next(iter(source.axes))
    left, right = source.slope(axis), target.slope(axis)
    return left / right if left and right else Fraction(1)


def _kernel(source: Dim, target: Dim) -> int:
    ratio = _ratio(source, target)
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
        steps.append(_turn(layout, split, assigned.before))
        layout = split
    axes = tuple(i for i, axis in enumerate(layout) if axis and set(axis) <= gone)
    steps.append(Mean(axes=axes))
    return steps, tuple(axis for i, axis in enumerate(layout) if i not in axes)


def _canonical(assigned: _Assignment) -> Layout:
    """Batch, channels, then the spatial atoms in the target's order."""
    names = [name for axis in assigned.target for name in axis]
    batch = [name for name in names if "B" in assigned.then[name].axes]
    spatial = [name for name in names if assigned.then[name].axes and name not in batch]
    rest = [name for name in names if name not in (*batch, *spatial)]
    return (tuple(batch), tuple(rest), *((name,) for name in spatial))


def _allows(layout: Layout, work: _Work) -> bool:
    """Whether torch has a layer for the work in this layout."""
    alone = {axis[0]: i for i, axis in enumerate(layout) if len(axis) == 1}
    if not all(name in alone for name in work.then):
        return False
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
        if work.kind == "project":
            (name,) = work.then
            axis = self.layout.index((name,))
            source, target = before[axis].constant, work.then[name].constant
            assert source is not None, "only constants are projected"
            assert target is not None, "only constants are projected"
            linear = axis == len(self.layout) - 1
            self.steps.append(Project(form="linear" if linear else "conv", source=source, target=target))

    def _size(self, axis: tuple[str, ...]) -> Dim:
        size = Dim(1)
        for name in axis:
            size = size * self.sizes[name]
        return size


def _turn(layout: Layout, then: Layout, sizes: dict[str, Dim]) -> Rearrange:
    split = {name for axis in layout if len(axis) > 1 for name in axis}
    return Rearrange(
        pattern=f"{_side(layout)} -> {_side(then)}", sizes={name: sizes[name] for name in sorted(split)}
    )


def _side(layout: Layout) -> str:
    return " ".join("1" if not axis else axis[0] if len(axis) == 1 else f"({' '.join(axis)})" for axis in layout)


def strides(spec: TensorSpec) -> dict[str, Fraction]:
    """Input cells per output cell, for each input axis (not the batch) that a tensor depends on.

    Example:
        >>> strides(TensorSpec.parse("f32[B, 8, ceil(H/4), ceil(W/4)]"))
        {'H': Fraction(4, 1), 'W': Fraction(4, 1)}
    """
    found = {}
    for dim in spec.dims:
        for factor in _bare_factors(dim):
            for axis in factor.axes - {"B"}:
                slope = factor.slope(axis)
                if slope and len(factor.axes) == 1:
                    found[axis] = 1 / slope
    return dict(sorted(found.items()))


def _bare_factors(dim: Dim) -> Iterator[Dim]:
    factors = dim.factors
    if factors is None:
        rest = dim - sum(coefficient for coefficient, atoms in dim.terms if not atoms)
        factors = rest.factors or ()
    yield from factors


def distance(source: TensorSpec, target: TensorSpec) -> float:
    """How far resampling must go, in octaves of stride; infinite where an axis cannot be made."""
    have, want = strides(source), strides(target)
    if not set(want) <= set(have):
        return float("inf")
    octaves = sum(abs(_log2(have[axis] / want[axis])) for axis in want)
    return octaves + 100.0 * len(set(have) - set(want))


def _log2(ratio: Fraction) -> float:
    return math.log2(ratio)
