"""Taps: views that return what inner modules put out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.contracts import leaves
from autoadapt.errors import CaptureError, Mismatch, VerificationError, nearest

__all__ = ["hand_on_copies", "overwritten", "tap"]


def tap(module: nn.Module, taps: Sequence[tuple[str, int, str]]) -> None:
    """Make a view return inner outputs instead of its own, as a tuple.

    Args:
        module: A view; its hooks are added to.
        taps: Path of the module (empty for the whole), which of its calls, and the path within its output.

    Raises:
        CaptureError: A path names no module.
    """
    named = dict(module.named_modules())
    unknown = [path for path, _, _ in taps if path not in named]
    if unknown:
        faults = [
            Mismatch(path, "a path in named_modules()", path, f'"{near[0]}"' if (near := nearest(path, named)) else "")
            for path in unknown
        ]
        raise CaptureError("a tap does not exist", faults)
    if any(getattr(hook, "__self__", None) == _Collected(tuple(taps)) for hook in module._forward_hooks.values()):
        return  # a view of what was tapped so already
    collected = _Collected(tuple(taps))
    for path in dict.fromkeys(path for path, _, _ in taps if path):
        named[path].register_forward_hook(_Collect(collected, path))
    module.register_forward_pre_hook(collected.begin, prepend=True)
    module.register_forward_hook(collected.give)
    module.register_forward_hook(collected.end, always_call=True)


class _Collected:
    """What the taps of one module take, kept apart for each of its running calls.

    Calls run side by side in threads and in replicas, which share hooks, and within each other where a model calls
    itself. Inner modules also run without any call, when gradient checkpointing runs them anew.
    """

    def __init__(self, taps: tuple[tuple[str, int, str], ...]) -> None:
        self._taps = taps
        self._calls = leaves.RunningCalls()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Collected) and other._taps == self._taps

    __hash__ = object.__hash__

    def begin(self, _module: nn.Module, _args: Any) -> None:
        self._calls.taken.append({})

    def take(self, path: str, output: Any) -> None:
        if self._calls.taken:
            self._calls.taken[-1].setdefault(path, []).append(output)

    def give(self, module: nn.Module, _args: Any, output: Any) -> tuple[torch.Tensor, ...]:
        taken = {**self._calls.taken[-1], "": [output]}
        missing = [(path, call) for path, call, _ in self._taps if call >= len(taken.get(path, ()))]
        if missing:
            mode = "train" if module.training else "eval"
            faults = [
                Mismatch(path, f"{call + 1} calls", f"{len(taken.get(path, ()))} calls", 'taps={"...": "..."}')
                for path, call in missing
            ]
            raise VerificationError(f"`{missing[0][0]}` is tapped and did not run in {mode} mode", faults)
        return tuple(leaves.leaf(taken[path][call], leaf) for path, call, leaf in self._taps)

    def end(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """Forget a call; also one that raised."""
        if self._calls.taken:
            self._calls.taken.pop()


class _Collect:
    """A forward hook that can be pickled."""

    def __init__(self, collected: _Collected, path: str) -> None:
        self._collected = collected
        self._path = path

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._collected.take(self._path, output)


def hand_on_copies(module: nn.Module, paths: Collection[str]) -> None:
    """Let inner modules of a view hand on copies of what their hooks so far have seen."""
    for path in paths:
        module.get_submodule(path).register_forward_hook(_handed_on)


def _handed_on(_module: nn.Module, _args: Any, output: Any) -> Any:
    return leaves.cloned(output)


def overwritten(
    module: nn.Module, taps: Sequence[tuple[str, int, str]], run: Callable[[nn.Module], object]
) -> list[str]:
    """The tapped modules of which an output is written over before the whole returns.

    Args:
        module: A copy that may be run; hooks are added to it.
        taps: As for `tap`.
        run: Runs it.
    """
    noted: list[tuple[str, torch.Tensor, int]] = []
    wanted = {path: [leaf for other, _, leaf in taps if other == path] for path, _, _ in taps if path}

    def note(path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        tensors = [leaves.leaf(output, leaf) for leaf in wanted[path]]
        noted.extend((path, tensor, tensor._version) for tensor in tensors)

    for path in wanted:
        module.get_submodule(path).register_forward_hook(functools.partial(note, path))
    run(module)
    return list(dict.fromkeys(path for path, tensor, version in noted if tensor._version != version))
