"""Rungs: successive halving. All candidates by plan and cost, then on few images, and the better ones on ever more.

After Jamieson and Talwalkar (2016), with images as what is spent. Whoever no other beats in both cost and quality
climbs as well, so that small models are not lost to the biggest ones.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from autoadapt.errors import Mismatch, RankingError
from autoadapt.ranking.results import Ranked, front_of

FIRST = 8
"""Images on the lowest rung that has any."""
TIMES = 4
"""So many times as many on the next one, for one in so many candidates."""
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def rungs(images: int) -> tuple[int, ...]:
    """Images on each rung; none on the first, where no weights are run.

    Args:
        images: Those on the last.

    Example:
        >>> rungs(128), rungs(100), rungs(5)
        ((0, 8, 32, 128), (0, 8, 32, 100), (0, 5))
    """
    found = [0]
    while max(FIRST, TIMES * found[-1]) < images:
        found.append(max(FIRST, TIMES * found[-1]))
    return (*found, images)


def better(rows: Sequence[Ranked]) -> tuple[str, ...]:
    """Who climbs to the next rung, best first: from plan and cost all that fit, the cheapest first.

    Of those with a quality the best quarter, and whoever no other one beats in both multiply-adds and quality.

    Example:
        >>> rows = [Ranked(source=str(i), agreement=i / 8, multiply_adds=i) for i in range(8)]
        >>> better([*rows, Ranked(source="dear", agreement=0.0, multiply_adds=9)])
        ('7', '6', '5', '4', '3', '2', '1', '0')
    """
    fit = [row for row in rows if not row.refused]
    judged = sorted((row for row in fit if row.quality is not None), key=lambda row: row.order)
    if not judged:
        return tuple(row.source for row in sorted(fit, key=lambda row: row.multiply_adds))
    front, quarter = front_of(judged, "multiply_adds"), -(-len(judged) // TIMES)
    return tuple(row.source for place, row in enumerate(judged) if place < quarter or row.source in front)


@dataclass(frozen=True)
class Clock:
    """The time that a ranking may take, from now on.

    Attributes:
        seconds: All of them; None for any time.
    """

    seconds: float | None = None
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, budget: str | float | None) -> Clock:
        """The clock of a budget, in seconds or as a text.

        Raises:
            RankingError: It is no time.

        Example:
            >>> Clock.of("1.5h").seconds, Clock.of(90).seconds
            (5400.0, 90.0)
        """
        if budget is None:
            return cls()
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|h|d)", budget) if isinstance(budget, str) else None
        is_number = isinstance(budget, (int, float)) and not isinstance(budget, bool) and budget > 0
        if found is None and not is_number:
            fault = Mismatch("budget", "seconds, or a text such as 90min, 2h, 1d", repr(budget)[:40], 'budget="2h"')
            raise RankingError("rank takes no such budget", [fault])
        return cls(float(found[1]) * _UNITS[found[2]] if found is not None else float(budget))

    def until(self, left: int) -> float:
        """When the next of so many rungs ends, all that are left having the same time; on the clock of `monotonic`."""
        if self.seconds is None:
            return float("inf")
        now = time.monotonic()
        return now + (self.started + self.seconds - now) / left
