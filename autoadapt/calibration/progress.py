"""Progress: a bar while images come in, only on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

__all__ = ["Progress", "progress"]

Progress: TypeAlias = Callable[[int, int, Callable[[], float | None]], None]
"""Called with images, tokens, and a way to the held-out error so far."""

_SECONDS_BETWEEN = 2.0


@contextlib.contextmanager
def progress(images: int) -> Iterator[Progress]:
    """A bar on standard error; nothing at all where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, tokens, error: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

    said = TextColumn("{task.fields[tokens]:,} tokens  held-out error {task.fields[error]}")
    with Bar(
        TextColumn("calibrate"), BarColumn(), MofNCompleteColumn(), said, TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=images, tokens=0, error="...")
        looked = [time.monotonic()]

        def update(done: int, tokens: int, error: Callable[[], float | None]) -> None:
            bar.update(task, completed=done, tokens=tokens)
            if time.monotonic() - looked[0] > _SECONDS_BETWEEN:
                value = error()
                bar.update(task, error="..." if value is None else f"{value:.3f}")
                looked[0] = time.monotonic()

        yield update
