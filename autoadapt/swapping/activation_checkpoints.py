"""Activation checkpoints: parts of a model that `torch.utils.checkpoint` runs again outside the call they belong to."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections import defaultdict
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
import torch.utils.checkpoint
from torch.utils.checkpoint import CheckpointFunction


def running_checkpoint() -> object:
    """The innermost reentrant checkpoint that runs here, whose gradients are off; None where there is none."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            found: object = frame.f_locals["ctx"]
            return found
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _recording() -> Any:
    """What stands for a checkpoint that is not reentrant, in its first run and in those that compute it again."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if top is None:  # torch 2.5
        return _recording_by_frames()
    hooks = top(True)
    pack = inspect.unwrap(hooks[0]) if hooks else None  # when it computes again it is kept from being compiled
    for cell in getattr(pack, "__closure__", None) or ():
        value = cell.cell_contents
        value = value() if isinstance(value, weakref.ref) else value
        if type(value).__name__ == "_CheckpointFrame":
            return value
    return None


def _recording_by_frames() -> Any:
    """The same where torch does not tell its hooks: what the running functions of `torch.utils.checkpoint` hold."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            first = getattr(frame.f_locals.get("gen"), "gi_frame", None)
            is_again = frame.f_code.co_name == "unpack_hook"
            found = frame.f_locals.get("frame") if is_again else first and first.f_locals.get("new_frame")
            if type(found).__name__ == "_CheckpointFrame":
                return found
        frame = frame.f_back
    return None


@dataclass
class _Handed:
    """What was handed on within one checkpoint, in order, and how far each backward pass has got with it."""

    values: list[tuple[str, Any]] = field(default_factory=list)
    count: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))


class Reruns:
    """What stand-ins handed on within checkpoints, which backward passes ask for again.

    It is kept as long as the checkpoint's part of the autograd graph. A copy or a pickle starts without any.
    """

    def __init__(self) -> None:
        self._handed: weakref.WeakKeyDictionary[Any, _Handed] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    @staticmethod
    def here() -> object:
        """The checkpoint that runs, whose first run or a later one this is; None where there is none."""
        return _recording()

    def note(self, checkpoint: object, path: str, value: Any) -> None:
        """Keep what a stand-in hands on."""
        self._handed.setdefault(checkpoint, _Handed()).values.append((path, value))

    def again(self, checkpoint: object, path: str) -> tuple[Any] | None:
        """What a stand-in handed on in the first run, where a backward pass computes the checkpoint again."""
        task = torch._C._current_graph_task_id()
        handed = self._handed.get(checkpoint) if task != -1 else None
        if handed is None:
            return None
        number = handed.count[task] % len(handed.values)
        handed.count[task] += 1
        return (handed.values[number][1],) if handed.values[number][0] == path else None
