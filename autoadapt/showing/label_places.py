"""Label places: where a name goes beside its point, so that names lie on nothing else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Area: TypeAlias = tuple[float, float, float, float]
"""Left, one of bottom and top, right, and the other, in pixels; the second is below the fourth."""

_DISTANCES = (9, 18, *range(30, 420, 12))
"""Between a point and its name, in pixels."""

_DIRECTIONS = tuple(
    (math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8))
    for turn in (0, 1, -1, 8, 7, -7, 2, -2, 4, -4, 6, -6, 3, -3, 5, -5)
)
"""Right first, then left, then above and below."""

NEAR = _DISTANCES[1]
"""Names farther away need a line to their points."""


@dataclass(frozen=True)
class Place:
    """Where a name goes, in pixels from its point."""

    dx: float
    dy: float
    distance: int
    box: Area


def free_place(x: float, y: float, width: float, height: float, taken: Sequence[Area], inside: Area) -> Place:
    """The nearest place without overlap, or else the one with the least."""
    best: tuple[float, Place] | None = None
    for distance, (right, up) in itertools.product(_DISTANCES, _DIRECTIONS):
        dx = right * distance - width * (1 - right) / 2
        dy = up * distance - height / 2
        box = (x + dx, y + dy, x + dx + width, y + dy + height)
        outside = width * height - _overlap(box, inside)
        overlap = sum(_overlap(box, other) for other in taken) + (outside if outside > 1e-6 else 0)
        if best is None or overlap < best[0]:
            best = (overlap, Place(dx, dy, distance, box))
        if overlap == 0:
            break
    assert best is not None, "there are directions"
    return best[1]


def corners(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line in steps from each place to the next: across first.

    Example:
        >>> corners([(0, 9), (4, 5)])
        [(0, 9), (4, 9), (4, 5)]
    """
    steps = [corner for (_, above), (x, y) in itertools.pairwise(places) for corner in ((x, above), (x, y))]
    return [*places[:1], *steps]


def line_areas(places: Sequence[tuple[float, float]]) -> list[Area]:
    """What a line in steps takes, so that names are not placed on it."""
    return [
        (min(x, to_x) - 1, min(y, to_y) - 1, max(x, to_x) + 1, max(y, to_y) + 1)
        for (x, y), (to_x, to_y) in itertools.pairwise(corners(places))
    ]


def _overlap(left: Area, right: Area) -> float:
    """The area that two boxes share, in square pixels."""
    across = min(left[2], right[2]) - max(left[0], right[0])
    up = min(left[3], right[3]) - max(left[1], right[1])
    return max(across, 0.0) * max(up, 0.0)
