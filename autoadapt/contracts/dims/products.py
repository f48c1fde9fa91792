"""Candidates for a size that depends on several axes: products of factors of one axis each, and sums of products.

The factors come from known dims, from samples in which one axis alone varies, and from the strides in use, the same on
both axes. Coefficients are then solved for exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import numpy.typing as npt

from autoadapt.contracts.dims.algebra import Dim
from autoadapt.contracts.dims.one_axis import Candidate

Array = npt.NDArray[np.int64]

ALL_SHIFTS_UP_TO = 16
COMMON_FLOORS = np.array(
    [
        (stride, shift)
        for stride in range(1, 65)
        for shift in range(stride)
        if stride <= ALL_SHIFTS_UP_TO or shift in (0, stride - 1)
    ],
    dtype=np.int64,
)
"""The (stride, shift) that are tried on two axes at once, whatever is known of either."""

MOST_SUMMANDS = 10
MOST_FACTORS = 8


def scaled_products(pools: Sequence[Sequence[Dim]], sizes: dict[str, Array], values: Array) -> list[Candidate]:
    """All `scale*f*g + offset` and `scale*f*g*h + offset` with each factor from another pool."""
    found: list[Candidate] = []
    for count in range(2, min(3, len(pools)) + 1):
        for chosen in combinations(pools, count):
            found += _products_of(chosen, sizes, values)
    return sorted(found, key=lambda candidate: candidate.bits)


def _products_of(pools: Sequence[Sequence[Dim]], sizes: dict[str, Array], values: Array) -> list[Candidate]:
    """The products of one dim from each pool, times a scale and plus an offset, that fit all values."""
    tables = [np.stack([_values(dim, sizes, len(values)) for dim in pool]) for pool in pools]
    grid = tables[0]
    for table in tables[1:]:
        grid = grid[..., None, :] * table
    chosen = np.argwhere(_collinear(grid, values))
    found = []
    for indices in chosen[:64]:
        dims = [pool[index] for pool, index in zip(pools, indices, strict=True)]
        solved = _solved(math.prod(dims, start=Dim(1)), grid[tuple(indices)], values)
        found += [solved] if solved else []
    return found


def _values(dim: Dim, sizes: dict[str, Array], count: int) -> Array:
    return np.broadcast_to(np.asarray(dim.evaluate(sizes), dtype=np.int64), (count,))


def _collinear(tables: Array, values: Array) -> npt.NDArray[np.bool_]:
    """Which rows of a table equal the values up to a scale and an offset."""
    far = int(np.argmax(np.abs(values - values[0])))
    rise, run = values[far] - values[0], tables[..., far] - tables[..., 0]
    fits = (tables - tables[..., :1]) * rise == (values - values[0]) * run[..., None]
    kept: npt.NDArray[np.bool_] = np.all(fits, axis=-1) & (run != 0)
    return kept


def _solved(dim: Dim, table: Array, values: Array) -> Candidate | None:
    """`scale*dim + offset` through the samples, where both are integers."""
    far = int(np.argmax(np.abs(values - values[0])))
    scale = Fraction(int(values[far] - values[0]), int(table[far] - table[0]))
    if scale.denominator != 1:
        return None
    offset = int(values[0]) - scale.numerator * int(table[0])
    return Candidate(_bits(dim, scale.numerator, offset), scale.numerator * dim + offset)


def _bits(dim: Dim, scale: int, offset: int) -> float:
    return 4.0 * text_length(dim) + math.log2(abs(scale) * (1 + abs(offset)))


def text_length(dim: Dim) -> int:
    """Length of a dim's text, in which `floor` counts as four letters, as `ceil` has."""
    return len(str(dim).replace("floor", "ceil"))


def linear_in(known: Iterable[Dim], sizes: dict[str, Array], values: Array) -> list[Candidate]:
    """All `scale*dim + offset` of one known dim."""
    found = []
    for dim in known:
        table = _values(dim, sizes, len(values))
        if _collinear(table[None], values)[0]:
            solved = _solved(dim, table, values)
            found += [solved] if solved else []
    return sorted(found, key=lambda candidate: candidate.bits)


def factors_of(axis: str, known: Iterable[Dim], lines: Iterable[Dim], step: int = 1) -> list[Dim]:
    """Factors to try for an axis: its size, its unit, and the dims of that axis among `lines` and `known`."""
    sources = [dim for dim in (*lines, *known) if dim.axes == {axis}]
    parts = [part for dim in sources for part in (dim, _primitive(dim))]
    return list(dict.fromkeys([Dim.axis(axis), Dim.axis(axis) // step, *parts]))


def _primitive(dim: Dim) -> Dim:
    """The dim without its constant, divided by what its coefficients share."""
    terms = [(coefficient, factors) for coefficient, factors in dim.terms if factors]
    common = math.gcd(*(coefficient for coefficient, _ in terms))
    return sum((c // common * math.prod(factors, start=Dim(1)) for c, factors in terms), start=Dim(0))


def sums_of_products(
    pools: Sequence[Sequence[Dim]], known: Sequence[Dim], sizes: dict[str, Array], values: Array
) -> list[Candidate]:
    """Multilinear forms of one factor per axis, and sums of the products that levels of a pyramid have as tokens."""
    levels = _sums(_levels(pools, known), sizes, values)
    return sorted([*_multilinear(pools, sizes, values), *levels], key=lambda candidate: candidate.bits)


def _multilinear(pools: Sequence[Sequence[Dim]], sizes: dict[str, Array], values: Array) -> Iterator[Candidate]:
    """Bilinear forms of one factor on each of two axes, multiplied by a third axis or not."""
    for chosen in combinations(pools, 2):
        rest = [pool[0] for pool in pools if pool not in chosen]
        for outer in (Dim(1), *rest):
            for factors in product(*(pool[:MOST_FACTORS] for pool in chosen)):
                solved = _bilinear(outer, factors, sizes, values)
                if solved is not None:
                    yield solved


def _bilinear(outer: Dim, factors: Sequence[Dim], sizes: dict[str, Array], values: Array) -> Candidate | None:
    """`outer*(p*f*g + q*f + r*g + s)` where the samples leave one choice of the four numbers."""
    whole, first, second = (_values(dim, sizes, len(values)) for dim in (outer, *factors))
    table = whole[:, None] * np.stack([first * second, first, second, np.ones_like(first)], axis=1)
    solution = _solution(table, values)
    if solution is None:
        return None
    parts = (factors[0] * factors[1], factors[0], factors[1], Dim(1))
    dim = outer * sum((scale * part for scale, part in zip(solution, parts, strict=True)), start=Dim(0))
    return Candidate(4.0 * text_length(dim), dim)


def _solution(table: Array, values: Array) -> list[int] | None:
    """The only integers that combine the columns to the values; None if there are none or several."""
    rows, columns = table.shape
    if rows <= columns:
        return None
    guess, _, rank, _ = np.linalg.lstsq(table.astype(np.float64), values.astype(np.float64), rcond=None)
    whole = np.rint(guess).astype(np.int64)
    solved = rank == columns and np.array_equal(table @ whole, values)
    return [int(number) for number in whole] if solved else None


def _levels(pools: Sequence[Sequence[Dim]], known: Sequence[Dim]) -> list[Dim]:
    """Products that may be summed: known ones, and those of the same function on each of two axes."""
    products = [dim for dim in known if len(dim.axes) > 1]
    for first, second in combinations(pools, 2):
        (axis,), (other,) = first[0].axes, second[0].axes
        twins = [(dim, dim.substitute({axis: Dim.axis(other)})) for dim in first[1:]]
        products += [dim * twin for dim, twin in twins if twin in second]
    return list(dict.fromkeys(products))[:MOST_SUMMANDS]


def _sums(levels: Sequence[Dim], sizes: dict[str, Array], values: Array) -> list[Candidate]:
    """Sums of some of the levels, times at most one axis that none of them has."""
    if len(levels) < 2:
        return []
    tables = np.stack([_values(dim, sizes, len(values)) for dim in levels])
    subsets = np.array(list(product((0, 1), repeat=len(levels))), dtype=np.int64)
    found = []
    batches = [axis for axis in sizes if all(axis not in dim.axes for dim in levels)]
    for outer in (Dim(1), *map(Dim.axis, batches)):
        totals = (subsets @ tables) * _values(outer, sizes, len(values))
        for row in np.flatnonzero(_collinear(totals, values)):
            chosen = [dim for dim, used in zip(levels, subsets[row], strict=True) if used]
            solved = _solved(outer * sum(chosen, start=Dim(0)), totals[row], values)
            found += [solved] if solved else []
    return found


def common_products(sizes: dict[str, Array], values: Array) -> list[Candidate]:
    """Products of one plain floor of one axis, or of two axes in the same way, and at most one more axis."""
    found: list[Candidate] = []
    for floored in (*combinations(sizes, 2), *combinations(sizes, 1)):
        rest = [axis for axis in sizes if axis not in floored]
        for whole in (*combinations(rest, 0), *combinations(rest, 1)):
            if len(floored) + len(whole) > 1:
                found += _of_common_floors(floored, whole, sizes, values)
    return sorted(found, key=lambda candidate: candidate.bits)


def _of_common_floors(
    floored: tuple[str, ...], whole: tuple[str, ...], sizes: dict[str, Array], values: Array
) -> Iterator[Candidate]:
    """Products of equal floors of some axes, and of whole axes."""
    strides, shifts = COMMON_FLOORS.T[..., None]
    table = np.ones((len(COMMON_FLOORS), len(values)), dtype=np.int64)
    for axis in floored:
        table *= (sizes[axis] + shifts) // strides
    for axis in whole:
        table *= sizes[axis]
    for row in np.flatnonzero(_collinear(table, values)):
        stride, shift = (int(number) for number in COMMON_FLOORS[row])
        dims = [*map(Dim.axis, whole), *((Dim.axis(axis) + shift) // stride for axis in floored)]
        solved = _solved(math.prod(dims, start=Dim(1)), table[row], values)
        if solved is not None:
            yield solved
