"""Solving: from the shapes of a few runs to dims that hold at every size, with further runs where these leave a choice.

A column is one axis of one tensor: its size in every run. Equal columns get the same dim.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from autoadapt.contracts.capturing.inner_leaves import InnerKey
from autoadapt.contracts.capturing.probing import Observation
from autoadapt.contracts.capturing.same_outputs import check_alike, sizes_text
from autoadapt.contracts.capturing.sizing import Run, Steps, held_out_sizes
from autoadapt.contracts.dims import Dim, distinguishing_size, fit
from autoadapt.errors import CaptureError, Mismatch

Sizes: TypeAlias = Mapping[str, int]
Column: TypeAlias = tuple[int, ...]
"""One axis of one leaf: its size in every observation, in order."""

MOST_EXTRA_PROBES = 32
"""Runs to distinguish candidates."""
DENSE_PROBES = 64
"""Consecutive sizes along one axis, for forms that no other search finds."""


class UnexplainedError(CaptureError):
    """An axis of an output is no function of the input axes that any search finds."""


@dataclass(frozen=True)
class Solution:
    """The dims of outputs and inner outputs."""

    outputs: tuple[tuple[Dim, ...], ...]
    inner: dict[InnerKey, tuple[Dim, ...]]
    unverified: tuple[str, ...]
    """Paths of outputs whose dims were not checked on held-out sizes, since none was legal."""
    smallest: dict[str, int]
    """The smallest size of each axis that was seen to run."""
    bounded: bool = False
    """Whether smaller images are refused."""

    @property
    def dims(self) -> dict[InnerKey | int, tuple[Dim, ...]]:
        """Those of all tensors, outputs by number."""
        return dict[InnerKey | int, tuple[Dim, ...]]([*enumerate(self.outputs), *self.inner.items()])

    def as_seen(self, maps: Mapping[InnerKey | int, tuple[Dim, ...]]) -> Solution:
        """The same with other dims of some tensors, outputs by number, as a real run showed them."""
        outputs = tuple(maps.get(i, dims) for i, dims in enumerate(self.outputs))
        return replace(self, outputs=outputs, inner={key: maps.get(key, dims) for key, dims in self.inner.items()})


@dataclass
class _Evidence:
    """All runs so far; grows while `solve` runs."""

    sizes: list[Sizes]
    seen: list[Observation]
    steps: Steps
    reach: int
    most: int
    refused: list[Sizes] = field(default_factory=list)

    def add(self, sizes: Sizes, observation: Observation) -> None:
        check_alike(self.seen[0], observation, self.sizes[0], sizes)
        self.sizes.append(sizes)
        self.seen.append(observation)

    def try_add(self, run: Run, sizes: Sizes) -> bool:
        """Run at new sizes; False where the module refuses them."""
        if any(sizes == old for old in (*self.sizes, *self.refused)):
            return False
        observation = run(sizes)
        if observation is None:
            self.refused.append(sizes)
            return False
        self.add(sizes, observation)
        return True

    def leave_out_fewer(self) -> None:
        """Count sizes as refused at which a module has fewer than it keeps, as `x[:, :7]` of 5 points.

        Formulas know no such limit. The size that was given first stays.
        """
        least: dict[str, int] = {}
        for column in self.output_columns():
            kept = max(column)
            for axis in self.steps.keys() - {"B"}:
                values = [sizes[axis] for sizes in self.sizes]
                is_cut = min(values) < kept <= values[0] and len({size for size in values if size > kept}) > 1
                if is_cut and all(size == min(value, kept) for value, size in zip(values, column, strict=True)):
                    least[axis] = max(least.get(axis, 0), kept)
        enough = [all(sizes[axis] >= kept for axis, kept in least.items()) for sizes in self.sizes]
        self.refused += [sizes for sizes, is_enough in zip(self.sizes, enough, strict=True) if not is_enough]
        self.sizes[:] = itertools.compress(self.sizes, enough)
        self.seen[:] = itertools.compress(self.seen, enough)

    def reaches(self, base: Sizes, point: Sizes) -> bool:
        """Whether a size may be probed: not too far above the base, nor too large in all."""
        near = all(size <= base[name] + self.reach for name, size in point.items())
        return near and math.prod(point.values()) <= self.most

    def output_columns(self) -> dict[Column, None]:
        shapes = [observation.shapes for observation in self.seen]
        leaves = zip(*shapes, strict=True)
        return {column: None for leaf in leaves for column in zip(*leaf, strict=True)}

    def inner_shapes(self) -> dict[InnerKey, list[tuple[int, ...]]]:
        """The shapes, in every observation, of each inner output that is in all of them with as many axes."""
        steady, found = _called_equally_often(self.seen), {}
        for key in self.seen[0].inner:
            shapes = [observation.inner[key].shape for observation in self.seen if key in observation.inner]
            if key[0] in steady and len(shapes) == len(self.seen) and len({len(shape) for shape in shapes}) == 1:
                found[key] = shapes
        return found

    def samples(self, column: Column) -> list[tuple[Sizes, int]]:
        return list(zip(self.sizes, column, strict=True))

    def shows(self, dim: Dim, column: Column) -> bool:
        """Whether a dim agrees with a column."""
        return all(dim.evaluate(sizes) == size for sizes, size in self.samples(column))

    def fits(self, column: Column, known: Iterable[Dim] = ()) -> list[Dim]:
        if len(set(column)) == 1:
            return [Dim(column[0])]
        offsets = {name: (step, self.sizes[0][name] % step) for name, step in self.steps.items() if step > 1}
        return fit(self.samples(column), axes=tuple(self.steps), known=known, steps=offsets)


def solve(
    run: Run,
    base: Sizes,
    steps: Steps,
    first: Sequence[tuple[Sizes, Observation]],
    *,
    reach: int,
    most: int = sys.maxsize,
) -> Solution:
    """Find the dims of everything that was observed.

    Args:
        run: Runs the module.
        base: The sizes around which to probe further.
        steps: Axes that may vary.
        first: The runs so far, with their sizes.
        reach: How far above the base the sizes of further probes may be.
        most: The largest product of the sizes of a further probe.

    Raises:
        CaptureError: An axis is no function of the input axes, or containers depend on the size.
    """
    evidence = _Evidence([first[0][0]], [first[0][1]], steps, reach, most)
    for sizes, observation in first[1:]:
        evidence.add(sizes, observation)
    checked = False
    for attempt in range(4):
        dims = _settle(run, evidence, base)
        checked, faults = _hold_out(run, evidence, dims, held_out_sizes(base, steps, attempt=attempt))
        if not faults:
            break
    else:
        raise _unexplained(evidence, faults)
    _settle_inside(run, evidence, base)
    bounded = _find_smallest(run, evidence, base)
    evidence.leave_out_fewer()
    return replace(_solution(evidence, dims, checked), bounded=bounded)


def _find_smallest(run: Run, evidence: _Evidence, base: Sizes) -> bool:
    """Whether small images are refused; if so, the smallest that run are found by bisection and added as evidence."""
    sides = [name for name in evidence.steps if name in ("H", "W")]
    small = [sizes for sizes in evidence.refused if sides and all(sizes[name] < base[name] for name in sides)]
    if not small or any(all(sizes[n] <= small[-1][n] for n in sides) for sizes in evidence.sizes):
        return False

    def refused(name: str, units: int) -> bool:
        sizes = {**base, name: base[name] - units * evidence.steps[name]}
        return sizes not in evidence.sizes and not evidence.try_add(run, sizes)

    for name in sides:  # each alone, since they may differ
        units = range(-(-base[name] // evidence.steps[name]))
        bisect.bisect_left(units, True, key=functools.partial(refused, name))
    return True


def _settle(run: Run, evidence: _Evidence, base: Sizes) -> dict[Column, Dim]:
    """Probe until one candidate is left for each column of the outputs; returns these dims."""
    for _ in range(MOST_EXTRA_PROBES):
        evidence.leave_out_fewer()
        candidates = _candidates(evidence, evidence.output_columns())
        missing = [column for column, dims in candidates.items() if not dims]
        if missing:
            if not _probe_densely(run, evidence, base):
                raise _unexplained(evidence, missing)
            continue
        point = _splitting_point(evidence, base, candidates.values())
        if point is None:
            break
        evidence.try_add(run, point)
    candidates = _candidates(evidence, evidence.output_columns())
    missing = [column for column, dims in candidates.items() if not dims]
    if missing:
        raise _unexplained(evidence, missing)
    return {column: dims[0] for column, dims in candidates.items()}


def _settle_inside(run: Run, evidence: _Evidence, base: Sizes) -> None:
    """The same for inner maps, as far as a few more sizes can tell.

    Outputs such as `[B, 1000]` do not show how strides round inside.
    """
    left = set(evidence.inner_shapes())
    for _ in range(MOST_EXTRA_PROBES):
        shapes = {key: leaf for key, leaf in evidence.inner_shapes().items() if key in left and len(leaf[0]) > 2}
        columns = {column for leaf in shapes.values() for column in zip(*leaf, strict=True)}
        candidates = {column: dims for column in columns if len(dims := evidence.fits(column)) > 1}
        point = _splitting_point(evidence, base, candidates.values())
        if point is None:
            return
        evidence.try_add(run, point)
        left = {key for key, leaf in shapes.items() if any(column in candidates for column in zip(*leaf, strict=True))}


def _candidates(evidence: _Evidence, columns: Iterable[Column]) -> dict[Column, list[Dim]]:
    """Candidates for each column; those of one axis are fitted first, since products are made from them."""
    found = {column: evidence.fits(column) for column in columns}
    known = list(dict.fromkeys(dims[0] for dims in found.values() if dims and dims[0].axes))
    return {column: dims or evidence.fits(column, known) for column, dims in found.items()}


def _splitting_point(evidence: _Evidence, base: Sizes, candidates: Iterable[list[Dim]]) -> Sizes | None:
    """A size at which the candidates for some column differ, those with the most first; None where there is none.

    Near sizes are tried first; strides such as 511 and 512 differ at far ones only. Where all axes together soon cost
    more than a run may, all but the batch and each axis alone are tried as well.
    """
    unsettled = sorted((dims for dims in candidates if len(dims) > 1), key=len, reverse=True)
    cells = {name: step for name, step in evidence.steps.items() if name != "B"}
    for prime in _NEAR_AND_FAR if unsettled else ():
        near = [point for point in _neighbours(base, evidence.steps, prime) if evidence.reaches(base, point)]
        if len(near) < prime - 1:
            others = [*_neighbours(base, cells, prime), *_along_each(base, evidence.steps, prime)]
            near += [point for point in others if evidence.reaches(base, point)]
        points = [point for point in near if point not in evidence.refused]
        for dims in unsettled:
            point = distinguishing_size(dims, points)
            if point is not None:
                return point
    return None


_NEAR_AND_FAR = (257, 2053)
"""Primes just above the largest stride that is searched first, and above the largest of all."""


def _neighbours(base: Sizes, steps: Steps, prime: int) -> list[dict[str, int]]:
    """Legal sizes above the base; the axes run through them in different orders."""
    points = []
    for unit in range(1, prime):
        point = dict(base)
        for position, (name, step) in enumerate(steps.items()):
            point[name] = base[name] + step * (unit * (2 * position + 1) % prime)
        points.append(point)
    return points


def _along_each(base: Sizes, steps: Steps, prime: int) -> list[dict[str, int]]:
    """Legal sizes above the base in one axis alone."""
    return [{**base, name: base[name] + step * unit} for name, step in steps.items() for unit in range(1, prime)]


def _probe_densely(run: Run, evidence: _Evidence, base: Sizes) -> bool:
    """Run at consecutive sizes along each axis alone; False where nothing new was run."""
    return sum(evidence.try_add(run, sizes) for sizes in _along_each(base, evidence.steps, DENSE_PROBES + 1)) > 0


def _hold_out(
    run: Run, evidence: _Evidence, dims: Mapping[Column, Dim], checks: Sequence[Sequence[Sizes]]
) -> tuple[bool, list[Column]]:
    """Check dims on held-out sizes, which become evidence.

    Returns:
        Whether any of these sizes ran, and the columns that did not agree.
    """
    columns, checked = list(evidence.output_columns()), False
    faults: list[Column] = []
    for options in checks:
        sizes = next((sizes for sizes in options if evidence.try_add(run, sizes)), None)
        if sizes is None:
            continue
        checked = True
        for column, longer in zip(columns, _extended(evidence, columns), strict=True):
            if any(dims[column].evaluate(evidence.sizes[-1]) != value for value in longer):
                faults.append(column)
    return checked, faults


def _extended(evidence: _Evidence, columns: Sequence[Column]) -> list[set[int]]:
    """For each column without the newest observation, the sizes that its axes have there."""
    found: dict[Column, set[int]] = {column: set() for column in columns}
    count = len(columns[0]) if columns else 0
    for leaf in zip(*[observation.shapes for observation in evidence.seen], strict=True):
        for column in zip(*leaf, strict=True):
            found[column[:count]].add(column[-1])
    return [found[column] for column in columns]


def _solution(evidence: _Evidence, dims: Mapping[Column, Dim], checked: bool) -> Solution:
    """A formula for every output and inner axis."""
    by_values = {column: evidence.fits(column) for column in evidence.output_columns()}
    known = list(dict.fromkeys(dims.values()))
    parts = functools.cache(lambda: _parts(known))

    def final(column: Column) -> Dim | None:
        if column not in by_values:
            fits = evidence.fits(column)
            pooled = [dim for dim in parts() if evidence.shows(dim, column)] if len(fits) > 1 else []
            by_values[column] = pooled or fits
        found = by_values[column] or evidence.fits(column, known)
        by_values[column] = found
        return found[0] if found else None

    def axes_of(leaf: Sequence[tuple[int, ...]]) -> tuple[Dim, ...] | None:
        solved = [final(column) for column in zip(*leaf, strict=True)]
        return None if None in solved else tuple(dim for dim in solved if dim is not None)

    leaves = list(zip(*[observation.shapes for observation in evidence.seen], strict=True))
    outputs = [axes_of(leaf) for leaf in leaves]
    missing = [column for leaf in leaves for column in zip(*leaf, strict=True) if final(column) is None]
    if missing:
        raise _unexplained(evidence, missing)
    names = evidence.seen[0].paths
    solved_outputs = tuple(leaf for leaf in outputs if leaf is not None)
    varying = [name for name, leaf in zip(names, solved_outputs, strict=True) if any(dim.axes for dim in leaf)]
    inner = {key: solved for key, leaf in evidence.inner_shapes().items() if (solved := axes_of(leaf)) is not None}
    smallest = {name: min(sizes[name] for sizes in evidence.sizes) for name in evidence.steps}
    return Solution(solved_outputs, inner, () if checked else tuple(varying), smallest)


def _parts(dims: Iterable[Dim]) -> list[Dim]:
    """Dims of outputs, and their floors and ceils of small divisors, which are preferred for inner maps."""
    varying = [dim for dim in dims if len(dim.axes) == 1]
    return [part for by in range(1, _MOST_POOLED + 1) for dim in varying for part in (dim // by, dim.ceildiv(by))]


_MOST_POOLED = 8
"""The largest of these divisors."""


def _called_equally_often(seen: Sequence[Observation]) -> set[str]:
    """Inner modules whose number of calls does not depend on the size."""
    counts = [Counter(path for path, _call in {key[:2] for key in observation.inner}) for observation in seen]
    return {path for path, count in counts[0].items() if all(other[path] == count for other in counts)}


def _unexplained(evidence: _Evidence, columns: Sequence[Column]) -> CaptureError:
    """The error for axes that no formula fits, with the sizes that they had."""
    faults = []
    for name, leaf in zip(evidence.seen[0].paths, zip(*[o.shapes for o in evidence.seen], strict=True), strict=True):
        for axis, column in enumerate(zip(*leaf, strict=True)):
            if any(column[: len(bad)] == bad for bad in columns):
                seen = ", ".join(
                    f"{size} at ({sizes_text(sizes)})"
                    for sizes, size in list(zip(evidence.sizes, column, strict=True))[:4]
                )
                faults.append(
                    Mismatch(
                        f"{name}, axis {axis}",
                        "an exact function of the input axes",
                        seen,
                        "write this signature by hand: Signature.parse({...})",
                    )
                )
    return UnexplainedError("an axis of the output cannot be explained by the input", faults)
