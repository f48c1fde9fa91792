"""Whether two forms are equal for every input, decided on a finite set of points.

Along one axis a form is a quasi-polynomial once the axis has passed the thresholds of all maxima: within one residue
modulo its period (the product of nested divisors, the least common multiple over the terms) it is a polynomial of
known degree. So degree + 1 periods beyond the thresholds, and all sizes below, decide: the complete set of points.
"""

from __future__ import annotations

import math
import zlib
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from autoadapt.contracts.dims.forms import Atom, Axis, Floor, Form, Max, evaluate

MOST_POINTS = 4_000_000
"""The largest complete set that is evaluated whole."""

SAMPLED_POINTS = 200_000
"""Points drawn where the complete set is larger."""

FINGERPRINTS = (100, 1_000, 10_000, 100_000, 10_000_000)
"""The upper bound of the sizes at each of the fixed points of a fingerprint."""


@lru_cache(maxsize=8192)
def fingerprint(form: Form) -> tuple[int, ...]:
    """Values at a few fixed points: equal for equal forms, and different for most others."""
    return tuple(
        evaluate(form, {axis: _fixed_size(axis, point) for axis in form.axes}, max)
        for point in range(len(FINGERPRINTS))
    )


def _fixed_size(axis: str, point: int) -> int:
    return zlib.crc32(f"{axis}/{point}".encode()) % FINGERPRINTS[point]


@lru_cache(maxsize=8192)
def always_equal(left: Form, right: Form) -> bool:
    """Whether two forms agree on all non-negative sizes.

    Exact while the complete set has at most `MOST_POINTS` points, no value overflows 64 bits, and each maximum holds
    one axis (of maxima over several axes, all sizes up to twice the width are taken). Beyond that False is certain, and
    True means that `SAMPLED_POINTS` points of the set, always the same, showed no difference; a tenth of them where a
    coefficient overflows 64 bits.
    """
    if left == right:
        return True
    if fingerprint(left) != fingerprint(right):
        return False
    difference = left - right
    if not difference.axes:
        return difference.constant == 0
    try:
        values = evaluate(difference, _complete_points(difference), np.maximum)
    except OverflowError:
        values = evaluate(difference, _exact_points(difference), np.maximum)
    return not np.any(values)


@lru_cache(maxsize=8192)
def constant_value(form: Form) -> int | None:
    """The value of a form that is the same at all sizes, else None."""
    value = fingerprint(form)[0]
    return value if always_equal(form, Form.of(value)) else None


def _exact_points(form: Form) -> dict[str, npt.NDArray[np.object_]]:
    """Some points of the complete set as Python integers, for coefficients that overflow 64 bits."""
    generator = np.random.default_rng(0)
    axes = sorted(form.axes)
    widths = [min(_width(form, axis), 1 << 62) for axis in axes]
    count = SAMPLED_POINTS // 10
    return {axis: generator.integers(0, width, count).astype(object) for axis, width in zip(axes, widths, strict=True)}


def _complete_points(form: Form) -> dict[str, npt.NDArray[np.int64]]:
    """A grid of sizes at which two equal forms must agree; random ones of them where there are too many."""
    axes = sorted(form.axes)
    widths = [_width(form, axis) for axis in axes]
    if math.prod(widths) > MOST_POINTS:
        generator = np.random.default_rng(0)
        widths = [min(width, 1 << 62) for width in widths]
        return {axis: generator.integers(0, width, SAMPLED_POINTS) for axis, width in zip(axes, widths, strict=True)}
    grid = np.ix_(*(np.arange(width, dtype=np.int64) for width in widths))
    return dict(zip(axes, grid, strict=True))


def _width(form: Form, axis: str) -> int:
    """How many sizes of the axis, from 0 on, the complete set holds."""
    spread = 2 if _has_wide_maximum(form) else 1
    return spread * (_threshold(form, axis) + (_degree(form, axis) + 1) * _period(form, axis))


def _atoms(form: Form, axis: str) -> list[Atom]:
    return [atom for monomial, _ in form.terms for atom in monomial if axis in atom.axes]


def _degree(form: Form, axis: str) -> int:
    """The degree of a form as a polynomial in an axis, with floors and maxima taken for their arguments."""

    def of_atom(atom: Atom) -> int:
        match atom:
            case Axis(name=name):
                return int(name == axis)
            case Floor(inner=inner) | Max(inner=inner):
                return _degree(inner, axis)

    return max((sum(map(of_atom, monomial)) for monomial, _ in form.terms), default=0)


def _period(form: Form, axis: str) -> int:
    """A number of sizes after which all floors along an axis repeat their remainders."""

    def of_atom(atom: Atom) -> int:
        match atom:
            case Axis():
                return 1
            case Floor(inner=inner, divisor=divisor):
                return divisor * _period(inner, axis)
            case Max(inner=inner):
                return _period(inner, axis)

    return math.lcm(*map(of_atom, _atoms(form, axis)))


def _threshold(form: Form, axis: str) -> int:
    """A size of the axis from which on each maximum takes the same one of its two arguments."""

    def of_atom(atom: Atom) -> int:
        match atom:
            case Axis():
                return 0
            case Floor(inner=inner):
                return _threshold(inner, axis)
            case Max(low=low, inner=inner):
                turn = (abs(low) + _wobble(inner)) * _period(inner, axis)
                return _threshold(inner, axis) + math.ceil(turn) + 1

    return max(map(of_atom, _atoms(form, axis)), default=0)


def _wobble(form: Form) -> Fraction:
    """The largest distance of a linear form from the straight line that it follows."""

    def of_atom(atom: Atom) -> Fraction:
        match atom:
            case Axis():
                return Fraction(0)
            case Floor(inner=inner, divisor=divisor):
                return _wobble(inner) / divisor + 1
            case Max(low=low, inner=inner):
                return _wobble(inner) + abs(low)

    return sum(
        (abs(c) * (sum(map(of_atom, monomial), Fraction(not monomial))) for monomial, c in form.terms),
        Fraction(0),
    )


def _has_wide_maximum(form: Form) -> bool:
    """Whether some maximum holds more than one axis."""

    def of_atom(atom: Atom) -> bool:
        match atom:
            case Axis():
                return False
            case Floor(inner=inner):
                return _has_wide_maximum(inner)
            case Max(inner=inner):
                return len(atom.axes) > 1 or _has_wide_maximum(inner)

    return any(of_atom(atom) for monomial, _ in form.terms for atom in monomial)
