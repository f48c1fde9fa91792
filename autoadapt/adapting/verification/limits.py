"""Limits: an end for a check that takes too long in this process."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator


class OutOfTime(BaseException):
    """Raised inside a check that takes too long; not an `Exception`, so that no `except Exception` catches it."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Stop Python code in the `with` block after some time; a call into compiled code is first waited for.

    Raises:
        OutOfTime: It ran for longer.

    Example:
        >>> import time
        >>> try:
        ...     with at_most(0.01):
        ...         while True:
        ...             time.sleep(0.001)
        ... except OutOfTime:
        ...     print("stopped")
        stopped
    """
    thread, lock, over = threading.get_ident(), threading.Lock(), False

    def stop() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(OutOfTime))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            over = True
