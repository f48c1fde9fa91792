"""Arranging: the operations that an assignment needs, each in a layout for which torch has a layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autoadapt.adapting.layouts.assigning import Assignment, Layout, Refusal
from autoadapt.adapting.layouts.factors import kernel_of, size_of
from autoadapt.adapting.layouts.placing import evened, misplaced
from autoadapt.adapting.operations import DropPrefix, Mean, Operation, Pool, Project, Rearrange, Resample, Resize
from autoadapt.contracts.dims import Dim


def arranged(assigned: Assignment, *, project: bool) -> tuple[Operation, ...] | Refusal:
    """The operations of an assignment with the fewest rearrangements; or for which axes torch has no layer."""
    reduced, layout = _averages(assigned)
    work = works(assigned, project=project)
    canonical = _canonical(assigned)
    layouts = list(dict.fromkeys([assigned.target, layout, canonical]))
    routes = []
    for route in itertools.product(layouts, repeat=len(work)):
        if all(_allows(where, one) for where, one in zip(route, work, strict=True)):
            path = [layout, *route, assigned.target]
            turns = sum(left != right for left, right in itertools.pairwise(path))
            deep = sum(len(where) > 4 for where in route)  # such layers take no memory format of images
            routes.append((turns, deep, route))
    if not routes:
        axes = ", ".join(str(assigned.then[name].dim) for one in work for name in one.then)
        return Refusal(f"torch has no layer that brings axes to {axes} among {len(assigned.target)}")
    *_, best = min(routes, key=lambda option: option[:2])
    state = _State(layout, {name: atom.dim for name, atom in assigned.before.items()}, [*reduced])
    for where, one in zip(best, work, strict=True):
        state.turn(where)
        state.do(one)
    state.turn(assigned.target)
    return tuple(state.steps)


@dataclass(frozen=True)
class Work:
    """A change of the sizes of some atoms, to be made in a layout that allows it."""

    kind: str  # resample, pool, project, resize or drop
    then: dict[str, Dim]
    """The sizes afterwards, by atom."""
    kernel: dict[str, int] = field(default_factory=dict)
    places: dict[str, tuple[float, float]] = field(default_factory=dict)


def works(assigned: Assignment, *, project: bool) -> list[Work]:
    """The changes in their order: pool, project, resize, so that projections run where there are fewest cells."""
    work = []
    sizes = {name: atom.dim for name, atom in assigned.before.items()}
    kernels = {name: kernel_of(assigned.before[name], assigned.then[name]) for name in assigned.resampled}
    places = _places(assigned, kernels)
    placed = Work("resample", {name: assigned.then[name].dim for name in places}, places=places)
    shrinks = any(step > 1 for _, step in places.values())
    work += [placed] if shrinks else []
    kernels = {name: kernel for name, kernel in kernels.items() if name not in places}
    pooled = {name: kernel for name, kernel in kernels.items() if kernel > 1}
    if pooled:
        sizes |= {name: sizes[name].ceildiv(kernel) for name, kernel in pooled.items()}
        work.append(Work("pool", {name: sizes[name] for name in pooled}, pooled))
    even = _evened(assigned)
    left = {n: even[n][0] if n in even else assigned.then[n].dim for n in {**kernels, **even}}
    left = {name: dim for name, dim in left.items() if sizes[name] != dim}
    channel = assigned.projected or (_channel(assigned) if project else [])
    then = {name: assigned.then[name].dim for name in channel}
    learned = [Work("project", {name: dim}) for name, dim in then.items() if dim != 0]
    emptied = [Work("drop", {name: dim}) for name, dim in then.items() if dim == 0]  # cannot be resized
    after = [placed] if places and not shrinks else []
    spread = {name: place for name, (_, place) in even.items()}
    moved = [Work("resample", {name: assigned.then[name].dim for name in spread}, places=spread)] if spread else []
    return [*work, *learned, *after, *([Work("resize", left)] if left else []), *moved, *emptied]


def _places(assigned: Assignment, kernels: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """First cell and step of the axes that are resampled at the target's centres, since resizing would miss them."""
    pairs = {n: (assigned.before[n], assigned.then[n]) for n in assigned.shared if assigned.then[n].kind - {"B"}}
    missed = {name: misplaced(*pair, kernels.get(name, 1)) for name, pair in pairs.items()}
    return {name: place for name, place in missed.items() if place is not None}


def _evened(assigned: Assignment) -> dict[str, tuple[Dim, tuple[float, float]]]:
    """Axes of a resized image that take two steps to the target's centres, resizing and resampling; see `evened`."""
    pairs = {n: (assigned.before[n], assigned.then[n]) for n in assigned.shared if assigned.then[n].kind - {"B"}}
    return {name: found for name, pair in pairs.items() if (found := evened(*pair)) is not None}


def _channel(assigned: Assignment) -> list[str]:
    """The largest constant axis, on which a projection acts where no channels differ."""
    constants = [name for name in assigned.shared if not assigned.before[name].kind]
    return sorted(constants, key=lambda name: -size_of(assigned.before[name]))[:1]


def _averages(assigned: Assignment) -> tuple[list[Operation], Layout]:
    """The mean over atoms that the target does not have; an axis that also holds other atoms is split before."""
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


def _canonical(assigned: Assignment) -> Layout:
    """The layout `[B, C, *spatial]`, with spatial atoms in the target's order."""
    names = [name for axis in assigned.target for name in axis]
    batch = [name for name in names if "B" in assigned.then[name].kind]
    spatial = [name for name in names if assigned.then[name].kind and name not in batch]
    rest = [name for name in names if name not in (*batch, *spatial)]
    return (tuple(batch), tuple(rest), *((name,) for name in spatial))


def _allows(layout: Layout, work: Work) -> bool:
    """Whether torch has a layer for a change in this layout."""
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
    """A chain so far: its steps, and the layout and sizes that they lead to."""

    layout: Layout
    sizes: dict[str, Dim]
    steps: list[Operation]

    def turn(self, layout: Layout) -> None:
        """Append a rearrangement to another layout, if it is another."""
        if layout != self.layout:
            self.steps.append(_turn(self.layout, layout, self.sizes))
            self.layout = layout

    def do(self, work: Work) -> None:
        """Append the operation of one piece of work, and note the sizes after it."""
        before = [self._size(axis) for axis in self.layout]
        if work.kind == "pool":
            kernels = [work.kernel.get(axis[0], 1) if len(axis) == 1 else 1 for axis in self.layout[2:]]
            self.steps.append(Pool(kernel=tuple(kernels)))
        self.sizes |= work.then
        if work.kind == "resample":
            cells = [work.places.get(axis[0], (0.0, 1.0)) if len(axis) == 1 else (0.0, 1.0) for axis in self.layout[2:]]
            first, step = zip(*cells, strict=True)
            dims = tuple(self._size(axis) for axis in self.layout[2:])
            self.steps.append(Resample(first=first, step=step, dims=dims))
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
