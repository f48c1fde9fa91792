"""Clocks: the time of a run, without that of waiting for others."""

from __future__ import annotations

import time
from typing import TypeAlias

Start: TypeAlias = tuple[float, float]


def start() -> Start:
    """What the clocks of the wall and of the processor say now."""
    return time.perf_counter(), time.process_time()


def since(began: Start) -> float:
    """Seconds since a start, in wall or processor time, whichever is less."""
    return min(now - then for now, then in zip(start(), began, strict=True))
