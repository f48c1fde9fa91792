"""Checks that hold while no other thread runs, on test runners whose own threads wake up now and then."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from autoadapt.contracts.randomness import other_threads

__all__ = ["while_threads_sleep"]

TRIES = 5


def while_threads_sleep(check: Callable[..., None]) -> Callable[..., None]:
    """Repeat a test that fails if another thread has run meanwhile."""

    @functools.wraps(check)
    def repeated(*args: Any, **kwargs: Any) -> None:
        for _ in range(TRIES - 1):
            before = other_threads()
            try:
                return check(*args, **kwargs)
            except (AssertionError, ValueError):
                if before == other_threads():
                    raise
        return check(*args, **kwargs)

    return repeated
