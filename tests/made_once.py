"""What many tests of a file start from is made once, and each of them gets a copy of its own."""

import copy
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def made_once(make: Callable[P, T]) -> Callable[P, T]:
    """`make`, which runs once for the same arguments; what it returns is copied at each call."""
    kept = functools.cache(make)

    @functools.wraps(make)
    def copied(*args: P.args, **kwargs: P.kwargs) -> T:
        return copy.deepcopy(kept(*args, **kwargs))

    return copied
