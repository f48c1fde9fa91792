"""Candidates for a size that depends on one axis: `scale*floor((x + shift)/stride) + offset`, clamped or nested.

The cost of a candidate is the number of bits that its numbers take; the cheapest is the simplest. Every search here is
exhaustive within its bounds and returns only forms that agree with all samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from autoadapt.contracts.dims.algebra import Dim

Array = npt.NDArray[np.int64]

LARGEST_STRIDE = 256
COARSEST_STRIDE = 2048
MOST_CANDIDATES = 16
"""The simplest ones of a search that are kept."""

LARGEST_INNER_SCALE = 16
CLAMP_BITS = 7.0
"""Bits of a clamp beside its number; where a plain form costs less, clamped ones are not searched."""

DENSE_BITS = 64.0
"""Bits of a dense form beside its period."""


@dataclass(frozen=True)
class Candidate:
    """A dim that agrees with all samples."""

    bits: float
    """What it costs to write down."""
    dim: Dim


@dataclass(frozen=True)
class Samples:
    """Values seen at sizes of one axis, sorted, each size once."""

    sizes: Array
    values: Array

    def where(self, chosen: npt.NDArray[np.bool_]) -> Samples:
        return Samples(self.sizes[chosen], self.values[chosen])


def plain_floors(axis: str, samples: Samples) -> list[Candidate]:
    """All `scale*floor((x + shift)/stride) + offset` with a stride up to 256, simplest first.

    The scale divides every difference of values; given that, the first and the last sample leave few strides.
    """
    return _floors(axis, samples, range(1, LARGEST_STRIDE + 1))


def coarse_floors(axis: str, samples: Samples) -> list[Candidate]:
    """The same with a stride of 257 to 2048, as the last maps of detectors have at small images.

    Many such strides fit a few samples. Those of real networks are mostly powers of two, so the largest power of two in
    a stride costs no bits.
    """
    return _floors(axis, samples, range(LARGEST_STRIDE + 1, COARSEST_STRIDE + 1), halved=True)


def _floors(axis: str, samples: Samples, allowed: range, *, halved: bool = False) -> list[Candidate]:
    """The floors of an axis that fit all samples, with strides of a range, simplest first."""
    if not _is_monotone(samples.values):
        return []
    rows: list[Array] = []
    for scale, stride in _slopes(samples, allowed):
        shifts = _shifts(samples, scale, stride)
        offsets = samples.values[0] - scale * ((samples.sizes[0] + shifts) // stride)
        rows.append(np.stack(np.broadcast_arrays(scale, stride, shifts, offsets), axis=-1))
    if not rows:
        return []
    table = np.concatenate(rows)
    bits = _bits(table)
    if halved:
        strides = table[:, 1]
        bits -= np.log2(strides & -strides)
    order = np.lexsort((table[:, 2], table[:, 1], table[:, 0], bits))[:MOST_CANDIDATES]
    return [Candidate(float(bits[row]), _floor_dim(Dim.axis(axis), table[row])) for row in order]


def _is_monotone(values: Array) -> bool:
    rises = np.diff(values)
    return values[0] != values[-1] and bool(np.all(rises >= 0) or np.all(rises <= 0))


def _slopes(samples: Samples, allowed: range) -> Iterator[tuple[int, int]]:
    """The (scale, stride) that agree with the first and the last sample."""
    step = int(samples.sizes[-1] - samples.sizes[0])
    rise = int(samples.values[-1] - samples.values[0])
    for scale in _divisors(math.gcd(*(int(v) for v in samples.values - samples.values[0]))):
        cells = abs(rise) // scale
        largest = allowed[-1] if cells < 2 else min(allowed[-1], (step - 1) // (cells - 1))
        for stride in range(max(allowed[0], step // (cells + 1) + 1), largest + 1):
            yield (scale if rise > 0 else -scale), stride


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _shifts(samples: Samples, scale: int, stride: int) -> Array:
    """The shifts for which every difference from the first sample is right."""
    shifts = np.arange(stride, dtype=np.int64)
    cells = (samples.sizes[:, None] + shifts) // stride
    rises = (samples.values - samples.values[0]) // scale
    kept: Array = shifts[np.all(cells - cells[0] == rises[:, None], axis=0)]
    return kept


def _bits(table: Array) -> npt.NDArray[np.float64]:
    scales, strides, shifts, offsets = table.T
    rounding = np.minimum(shifts, strides - 1 - shifts)
    product = np.abs(scales) * strides * (1 + rounding) * (1 + np.abs(offsets))
    bits: npt.NDArray[np.float64] = np.log2(product) + (shifts > strides - 1 - shifts) * 0.01
    return bits


def _floor_dim(inner: Dim, row: Array) -> Dim:
    scale, stride, shift, offset = (int(number) for number in row)
    return scale * ((inner + shift) // stride) + offset


def clamped_floors(axis: str, samples: Samples) -> list[Candidate]:
    """`max(low, plain)`, where the lowest value and at least two others were seen, the lowest at two sizes or more."""
    low = int(samples.values.min())
    above = samples.where(samples.values > low)
    if len(samples.sizes) - len(above.sizes) < 2 or len(set(above.values.tolist())) < 2:
        return []
    extra = CLAMP_BITS + math.log2(1 + abs(low))
    clamped = [Candidate(plain.bits + extra, plain.dim.at_least(low)) for plain in plain_floors(axis, above)]
    return [candidate for candidate in clamped if _agrees(candidate.dim, axis, samples)]


def _agrees(dim: Dim, axis: str, samples: Samples) -> bool:
    return bool(np.all(dim.evaluate({axis: samples.sizes}) == samples.values))


def nested_floors(axis: str, samples: Samples) -> list[Candidate]:
    """Floors of floors that are no single floor: `outer*floor((inner*floor((x + a)/stride) + b)/divisor) + offset`."""
    if not _is_monotone(samples.values):
        return []
    found: list[Candidate] = []
    rises = samples.values - samples.values[0]
    for outer in _divisors(math.gcd(*(int(rise) for rise in rises))):
        for inner, divisor in _coprime_ratios():
            for stride in _inner_strides(samples, outer * inner, divisor):
                for first, second in _nested_shifts(samples.sizes, rises // outer, inner, divisor, stride):
                    found.append(_nested(axis, samples, (outer, inner, divisor, stride, first, second)))
    found.sort(key=lambda candidate: candidate.bits)
    return found[:MOST_CANDIDATES]


def _coprime_ratios() -> Iterator[tuple[int, int]]:
    for inner in range(2, LARGEST_INNER_SCALE + 1):
        for divisor in range(2, LARGEST_INNER_SCALE + 1):
            if math.gcd(inner, divisor) == 1:
                yield inner, divisor


def _inner_strides(samples: Samples, scale: int, divisor: int) -> range:
    """The strides whose slope fits the first and the last sample to within two cells."""
    step = int(samples.sizes[-1] - samples.sizes[0])
    rise = abs(int(samples.values[-1] - samples.values[0]))
    slack = 2 * scale
    least = step * scale // (divisor * (rise + slack))
    most = LARGEST_STRIDE if rise <= slack else step * scale // (divisor * (rise - slack)) + 1
    return range(max(1, least), min(LARGEST_STRIDE // divisor, most) + 1)


def _nested_shifts(sizes: Array, cells: Array, inner: int, divisor: int, stride: int) -> list[tuple[int, int]]:
    """(first, second) shifts for which every difference from the first sample is right."""
    first = np.arange(stride, dtype=np.int64)[:, None]
    second = np.arange(divisor, dtype=np.int64)
    alive = np.ones((stride, divisor), dtype=bool)
    base = (inner * ((sizes[0] + first) // stride) + second) // divisor
    for size, rise in zip(sizes[::-1], cells[::-1], strict=True):
        alive &= (inner * ((size + first) // stride) + second) // divisor - base == rise
        if not alive.any():
            break
    return [(int(row), int(column)) for row, column in np.argwhere(alive)]


def _nested(axis: str, samples: Samples, numbers: tuple[int, ...]) -> Candidate:
    outer, inner, divisor, stride, first, second = numbers
    dim = outer * ((inner * ((Dim.axis(axis) + first) // stride) + second) // divisor)
    offset = int(samples.values[0]) - dim.evaluate({axis: int(samples.sizes[0])})
    rounding = min(first, stride - 1 - first), min(second, divisor - 1 - second)
    bits = math.log2(outer * inner * divisor * stride * (1 + rounding[0]) * (1 + rounding[1]) * (1 + abs(offset)))
    return Candidate(bits, dim + offset)


def dense_form(axis: str, samples: Samples) -> list[Candidate]:
    """The quasi-linear function that consecutive sizes over two periods show, as a sum of one floor for each rise."""
    run = _longest_run(samples)
    rises = np.diff(run.values)
    period = _period(rises)
    if period is None:
        return []
    dim = Dim(0)
    for size, rise in zip(run.sizes[1 : period + 1], rises[:period], strict=True):
        if rise:
            dim = dim + int(rise) * ((Dim.axis(axis) + (-int(size) % period)) // period)
    dim = dim + (int(run.values[0]) - dim.evaluate({axis: int(run.sizes[0])}))
    return [Candidate(DENSE_BITS + period, dim)] if _agrees(dim, axis, samples) else []


def _longest_run(samples: Samples) -> Samples:
    """The longest stretch of consecutive sizes."""
    breaks = [0, *(np.flatnonzero(np.diff(samples.sizes) != 1) + 1).tolist(), len(samples.sizes)]
    start, end = max(pairwise(breaks), key=lambda pair: pair[1] - pair[0])
    return Samples(samples.sizes[start:end], samples.values[start:end])


def _period(rises: Array) -> int | None:
    """The shortest period that the rises show twice."""
    for period in range(1, len(rises) // 2 + 1):
        if np.array_equal(rises[period:], rises[:-period]):
            return period
    return None
