"""Fitting: the dims that agree with the sizes seen in runs, simplest first, and the size that tells them apart.

The searches run in this order, and the first that finds anything decides: a constant; a known dim, or a plain or
clamped floor of one axis; a known dim, scaled and shifted; products; sums of products; nested floors; the
dense form; floors of a stride above 256. Within a search the simplest takes the fewest bits to write down (a known
dim takes none), ties by the order of the axes, then by the numbers themselves. A fit proves nothing about sizes that
were not sampled: check it on held-out ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autoadapt.contracts.dims.algebra import Dim
from autoadapt.contracts.dims.one_axis import (
    CLAMP_BITS,
    Candidate,
    Samples,
    clamped_floors,
    coarse_floors,
    dense_form,
    nested_floors,
    plain_floors,
)
from autoadapt.contracts.dims.products import (
    common_products,
    factors_of,
    linear_in,
    scaled_products,
    sums_of_products,
    text_length,
)

Array = npt.NDArray[np.int64]
Search: TypeAlias = Callable[[str, Samples], list[Candidate]]
Steps: TypeAlias = Mapping[str, tuple[int, int]]
"""Axis -> (step, rest), where the legal sizes of the axis are `step*u + rest` for its unit `u` = 0, 1, 2 ..."""

LINE_CANDIDATES = 4
LEGAL_POINTS = 200
"""Points at which dims are compared where not all sizes are legal."""


def fit(
    samples: Sequence[tuple[Mapping[str, int], int]],
    *,
    axes: Sequence[str] | None = None,
    known: Iterable[Dim] = (),
    steps: Steps | None = None,
) -> list[Dim]:
    """The dims that agree with all samples, simplest first; none where no search finds any.

    Args:
        samples: Sizes of the axes, and the value seen there.
        axes: The axes a dim may depend on, the likeliest first; by default those of the samples, sorted.
        known: Dims of the same module, from which products and sums may be made.
        steps: Of axes of which not every size is legal. Of forms that agree on all legal sizes the simplest is kept.

    Example:
        >>> fit([({"H": 224}, 7), ({"H": 225}, 8), ({"H": 6944}, 217), ({"H": 223}, 7)])
        [Dim('ceil(H/32)')]
    """
    if not samples:
        return []
    names = tuple(axes) if axes is not None else tuple(sorted(set().union(*(sizes for sizes, _ in samples))))
    values = np.array([value for _, value in samples], dtype=np.int64)
    if np.all(values == values[0]):
        return [Dim(int(values[0]))]
    sizes = {name: np.array([given[name] for given, _ in samples], dtype=np.int64) for name in names}
    usable = list(dict.fromkeys(dim for dim in known if dim.axes and dim.axes <= set(names)))
    steps = steps or {}
    searches = _searches(sizes, values, usable, steps)
    found = next((found for found in searches if found), [])
    dims = [candidate.dim for candidate in found]
    return _distinct(dims, steps) if steps else dims


def _distinct(dims: Sequence[Dim], steps: Steps) -> list[Dim]:
    """The first of all dims that agree on legal sizes, decided on a fixed sample of them."""
    generator = np.random.default_rng(0)
    sizes: dict[str, Array] = {}
    for axis in sorted(set().union(*(dim.axes for dim in dims))):
        step, rest = steps.get(axis, (1, 0))
        sizes[axis] = generator.integers(0, 2000, LEGAL_POINTS) * step + rest
    first: dict[bytes, Dim] = {}
    for dim in dims:
        first.setdefault(np.asarray(dim.evaluate(sizes)).tobytes(), dim)
    return list(first.values())


def _searches(sizes: dict[str, Array], values: Array, known: Sequence[Dim], steps: Steps) -> Iterator[list[Candidate]]:
    """What each search finds, in order; a search runs when its item is asked for."""
    plain = _along_each(_plain_or_clamped, sizes, values, steps)
    yield _foremost([dim for dim in known if np.all(dim.evaluate(sizes) == values)], plain)
    if steps:
        yield _along_each(plain_floors, sizes, values, {})
    yield linear_in(known, sizes, values)
    if len(sizes) > 1:
        lines = {axis: _line(axis, sizes, values, steps) for axis in sizes}
        pools = [factors_of(axis, known, lines[axis], *steps.get(axis, ())[:1]) for axis in sizes]
        yield scaled_products(pools, sizes, values)
        yield common_products(sizes, values)
        yield sums_of_products(pools, known, sizes, values)
    yield _along_each(nested_floors, sizes, values, steps)
    yield _along_each(dense_form, sizes, values, steps)
    yield _along_each(coarse_floors, sizes, values, steps)


def _foremost(known: Sequence[Dim], others: Sequence[Candidate]) -> list[Candidate]:
    """Known dims, which cost no bits, before all others."""
    rest = [candidate for candidate in others if candidate.dim not in known]
    return [*(Candidate(0.0, dim) for dim in known), *rest]


def _plain_or_clamped(axis: str, samples: Samples) -> list[Candidate]:
    """Plain floors, and clamped ones where the simplest is simpler than every plain one."""
    plain = plain_floors(axis, samples)
    if plain and plain[0].bits <= CLAMP_BITS:
        return plain
    clamped = clamped_floors(axis, samples)
    if not clamped or (plain and plain[0].bits <= clamped[0].bits):
        return plain
    return clamped + plain


def _along_each(search: Search, sizes: dict[str, Array], values: Array, steps: Steps) -> list[Candidate]:
    found: list[Candidate] = []
    for axis in sizes:
        samples = _samples_of(sizes[axis], values, steps.get(axis, (1, 0)))
        if samples is not None:
            found += [_in_sizes(candidate, axis, steps) for candidate in search(axis, samples)]
    return sorted(found, key=lambda candidate: candidate.bits)


def _samples_of(sizes: Array, values: Array, step: tuple[int, int]) -> Samples | None:
    """The values as a function of one axis in units of its step; None where they are no function of it."""
    units, first, group = np.unique((sizes - step[1]) // step[0], return_index=True, return_inverse=True)
    if len(units) < 2 or not np.array_equal(values[first][group], values):
        return None
    return Samples(units, values[first])


def _in_sizes(candidate: Candidate, axis: str, steps: Steps) -> Candidate:
    """A candidate in units rewritten in sizes, in the shortest spelling that is equal at all legal sizes."""
    step, rest = steps.get(axis, (1, 0))
    if (step, rest) == (1, 0):
        return candidate
    spellings = [_unit_for(candidate.dim, axis, step, rest, slack) for slack in (rest, rest - 1, 0, step - 1)]
    return Candidate(candidate.bits, min(spellings, key=text_length))


def _unit_for(dim: Dim, axis: str, step: int, rest: int, slack: int) -> Dim:
    """The dim with `floor((size - rest + slack)/step)` for its axis: slack below one step changes no legal size."""
    size = Dim.axis(axis) - rest
    offset: int = dim.evaluate({axis: 0})
    growth = dim.slope(axis)
    if growth is not None and dim == int(growth) * Dim.axis(axis) + offset:
        slope = growth / step
        return slope.numerator * ((size + slack % slope.denominator) // slope.denominator) + offset
    return dim.substitute({axis: (size + slack % step) // step})


def _line(axis: str, sizes: dict[str, Array], values: Array, steps: Steps) -> list[Dim]:
    """Candidates along one axis alone, from the largest set of samples in which no other axis varies."""
    others = np.stack([sizes[other] for other in sizes if other != axis], axis=1)
    places, group = np.unique(others, axis=0, return_inverse=True)
    counts = np.bincount(group.reshape(-1), minlength=len(places))
    on_line = group.reshape(-1) == int(np.argmax(counts))
    if counts.max() < 3:
        return []
    line = {axis: sizes[axis][on_line]}
    for search in (_plain_or_clamped, nested_floors, dense_form):
        found = _along_each(search, line, values[on_line], steps)
        if found:
            return [candidate.dim for candidate in found[:LINE_CANDIDATES] if candidate.dim.axes]
    return []


def distinguishing_size(candidates: Sequence[Dim], points: Sequence[Mapping[str, int]]) -> Mapping[str, int] | None:
    """The first point that tells candidates apart best: whose largest group of candidates of equal value is smallest.

    Example:
        >>> candidates = [Dim.parse("ceil(H/32)"), Dim.parse("floor((H + 30)/32)")]
        >>> distinguishing_size(candidates, [{"H": 224}, {"H": 225}, {"H": 226}])
        {'H': 225}

    Returns:
        One of `points`, or None where all candidates agree on all of them.
    """
    largest = [max(Counter(dim.evaluate(point) for dim in candidates).values(), default=0) for point in points]
    best = min(largest, default=len(candidates))
    return None if best == len(candidates) else points[largest.index(best)]
