"""Progress bars: how many images came in, what is fitted: a bar on a terminal, else as `showing.progress` tells."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from autoadapt.showing.progress import Tell, listened, telling

NARROW = 76
"""Columns of a terminal below which only images are counted."""
_SECONDS_BETWEEN = 2.0


class Progress:
    """What happens, told to nobody."""

    def sees(self, images: int, tokens: int, error: Callable[[], float | None]) -> None:
        """So many images and tokens came in; the held-out error so far can be asked for."""

    def does(self, text: str) -> None:
        """Images are all in, and this is done with them."""


class _Told(Progress):
    """The same, told by a bar."""

    def __init__(self, bar: Any, images: int) -> None:
        self._bar = bar
        self._task = bar.add_task("calibrate", total=images, said="images")
        self._looked = float("-inf")
        self._error = ""

    def sees(self, images: int, tokens: int, error: Callable[[], float | None]) -> None:
        if time.monotonic() - self._looked > _SECONDS_BETWEEN:
            value = error()
            self._error = "" if value is None else f" · held-out error {value:.3f}"
            self._looked = time.monotonic()
        said = f"images · {tokens:,} tokens{self._error}"
        self._bar.update(self._task, completed=images, said=said if self._bar.console.width >= NARROW else "images")

    def does(self, text: str) -> None:
        self._bar.columns = self._bar.columns[:1]
        self._bar.update(self._task, description=text)


class _Passed(Progress):
    """The same, told as other verbs are."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def sees(self, images: int, tokens: int, error: Callable[[], float | None]) -> None:
        self._tell(f"{tokens:,} tokens", images)

    def does(self, text: str) -> None:
        self._tell(text)


@contextlib.contextmanager
def progress(images: int) -> Iterator[Progress]:
    """A bar on standard error where that is a terminal and nobody else listens."""
    if not sys.stderr.isatty() or listened():
        with telling("calibrate", images) as tell:
            yield _Passed(tell)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

    with Bar(
        TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(compact=True), console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        yield _Told(bar, images)
