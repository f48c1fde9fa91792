"""Other threads: running a function in a thread of its own, to see whether a module returns the same there."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

_Made = TypeVar("_Made")
_MOST_SECONDS = 30.0
"""How long a run is waited for."""


def in_another_thread(run: Callable[[], _Made]) -> _Made | None:
    """What a function returns in a thread of its own, with the context variables of this one.

    None where it does not end, as one that waits for a lock of this thread. Where settings of torch are active that are
    local to this thread (autocast, inference mode, a default device, modes), the function is called in this one.

    Raises:
        Exception: Whatever the function raises.

    Example:
        >>> in_another_thread(threading.get_ident) == threading.get_ident()
        False
    """
    if _has_settings():
        return run()
    made: list[_Made] = []
    raised: list[BaseException] = []
    context = contextvars.copy_context()

    def noted() -> None:
        try:
            made.append(context.run(run))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=noted, name="autoadapt", daemon=True)
    thread.start()
    thread.join(_MOST_SECONDS)
    if raised:
        raise raised[0]
    return made[0] if made else None


def _has_settings() -> bool:
    autocast = any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    modes = (*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack())  # type: ignore[no-untyped-call]
    return autocast or torch.is_inference_mode_enabled() or bool(modes)
