"""Hook stops: forward passes that a hook ends by an exception, as feature extractors do to skip the rest."""

from __future__ import annotations

import functools
import itertools
import traceback
from types import FrameType
from typing import Any

from torch import nn


def stopped_by_hook(error: BaseException) -> str:
    """The path of the module whose forward hook raised an exception; empty where none did.

    It is relative to the module that was called, which itself goes by the name of its class.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    model = next((f.f_locals["self"] for f in frames if _is_call(f)), None)
    for caller, called in itertools.pairwise(frames):
        hook = caller.f_locals.get("hook") if _is_call(caller) else None
        if model is not None and hook is not None and _code(hook) is called.f_code:
            owner = caller.f_locals["self"]
            return next((path for path, one in model.named_modules() if one is owner and path), type(owner).__name__)
    return ""


def _is_call(frame: FrameType) -> bool:
    """Whether a frame is that of `nn.Module.__call__`, which calls hooks and `forward`."""
    return frame.f_globals.get("__name__") == nn.Module.__module__ and "self" in frame.f_locals


def _code(hook: Any) -> object:
    """The code that runs when a hook is called."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    called = hook if hasattr(hook, "__code__") or hasattr(hook, "__func__") else type(hook).__call__
    return getattr(called, "__code__", None)
