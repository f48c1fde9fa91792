"""Progress: one line on a terminal that says what a swap is doing."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator

__all__ = ["progress"]

_CLEAR = "\r\x1b[K"


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line on standard error for each step, gone at the end; nothing at all where that is no terminal.

    A step is told as it begins: a clock to wait for the slow ones would be a thread, and beside other threads the
    generators of random numbers are left alone, so that a capture would see less.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _text: None
        return

    def tell(text: str) -> None:
        sys.stderr.write(f"{_CLEAR}{text[: shutil.get_terminal_size().columns - 1]}")
        sys.stderr.flush()

    try:
        yield tell
    finally:
        sys.stderr.write(_CLEAR)
        sys.stderr.flush()
