"""Progress: what long work is doing, told to a function of the caller, in a notebook, or in a line on a terminal.

One run of a verb has one display; verbs that it calls tell it what they do. All of it also goes to
`logging.getLogger("autoadapt")`, at level INFO.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

from autoadapt.errors.given import check_callable

_LOGGER = logging.getLogger("autoadapt")
_LOGGER.addHandler(logging.NullHandler())
_CLEAR = "\r\x1b[K"


@dataclass(frozen=True)
class Event:
    """Something that begins, or a part of it that is done."""

    verb: str
    """The verb that the caller called: `swap`, `verify`."""
    text: str
    """What it does now."""
    done: int | None = None
    """How much of `total` is done, where that is known."""
    total: int | None = None

    @property
    def counted(self) -> str:
        """The text, and how much is done of how much."""
        return self.text + (f" ({self.done}/{self.total})" if self.total and self.done else "")

    def __str__(self) -> str:
        return f"{self.verb}: {self.counted}"


Listener: TypeAlias = Callable[[Event], object]
Tell: TypeAlias = Callable[..., None]
"""`tell(text)` or `tell(text, done)`."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_running: ContextVar[tuple[str, int | None, Listener] | None] = ContextVar("running", default=None)


@contextlib.contextmanager
def progress(listener: Listener) -> Iterator[None]:
    """Tell a function what long work is doing, in place of a notebook's bar or a terminal's line.

    Args:
        listener: Called with each `Event` in the thread that works: `verb`, `text` and, where they are known, `done`
            and `total`. What it raises stops the work.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from autoadapt.swapping import swap
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
        >>> with progress(print):
        ...     swapped = swap(model, "0", nn.Conv2d(3, 8, 4, stride=4), inputs=torch.zeros(1, 3, 8, 8))
        swap: running Sequential to see what it reads of 0
        swap: capturing 0 and what takes its place
        swap: capture: running Conv2d at several sizes
        swap: capture: running Conv2d at several sizes
        swap: building what takes the place of 0
        swap: running Sequential with the new module
    """
    check_callable(listener, ("event",), "listener", "with aa.progress(print): ...")
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def telling(verb: str, total: int | None = None) -> Iterator[Tell]:
    """The display of one run of a verb, or that of the verb that called it; gone at the end.

    A step is told as it begins: a clock to wait for the slow ones would be a thread, and beside other threads the
    generators of random numbers are left alone, so that a capture would see less.

    Args:
        verb: What is told first.
        total: How many parts there are, where that is known.
    """
    outer = _running.get()
    if outer is not None:
        yield lambda text, done=None: _send(outer, f"{verb}: {text}" if verb != outer[0] else text, None)
        return
    with _display(verb, total) as show:
        running = (verb, total, show)
        token = _running.set(running)
        try:
            yield lambda text, done=None: _send(running, text, done)
        finally:
            _running.reset(token)


def listened() -> bool:
    """Whether somebody else than a terminal is told: a function, a notebook, the verb that called this one."""
    return _listener.get() is not None or _running.get() is not None or _in_notebook()


def _send(running: tuple[str, int | None, Listener], text: str, done: int | None) -> None:
    verb, total, show = running
    event = Event(verb, text, done, total)
    _LOGGER.info("%s", event)
    show(event)


@contextlib.contextmanager
def _display(verb: str, total: int | None) -> Iterator[Listener]:
    listener = _listener.get()
    if listener is not None:
        yield listener
    elif _in_notebook():
        with _bar(verb, total) as show:
            yield show
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        try:
            yield _line
        finally:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
    else:
        yield lambda _event: None


def _line(event: Event) -> None:
    """On a terminal a line takes the place of the one before it."""
    sys.stderr.write(f"{_CLEAR}{str(event)[: shutil.get_terminal_size().columns - 1]}")
    sys.stderr.flush()


def _in_notebook() -> bool:
    """Whether a kernel runs this, whose bars tqdm draws, and tqdm is there."""
    shell = sys.modules.get("IPython")
    running: Any = shell.get_ipython() if shell is not None else None
    return running is not None and "IPKernelApp" in running.config


@contextlib.contextmanager
def _bar(verb: str, total: int | None) -> Iterator[Listener]:
    """A bar of tqdm, where that is installed; a line with the time where nothing tells how much there is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets it draws in text, and says so
            from tqdm.auto import tqdm
    except ImportError:
        yield lambda _event: None
        return
    bar = tqdm(total=total, desc=verb, leave=False, bar_format=None if total else "{desc}{postfix} [{elapsed}]")

    def show(event: Event) -> None:
        bar.set_postfix_str(event.text, refresh=False)
        bar.n = bar.n if event.done is None else event.done
        bar.refresh()  # at once: the step that begins may take long

    try:
        yield show
    finally:
        bar.close()
