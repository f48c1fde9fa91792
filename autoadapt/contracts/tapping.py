"""Taps: views that return outputs, or first arguments, of inner modules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.contracts import leaves
from autoadapt.errors import CaptureError, Mismatch, VerificationError, nearest


def tap(module: nn.Module, taps: Sequence[tuple[str, int, str]]) -> None:
    """Make a view return a tuple of inner tensors instead of its own output.

    Args:
        module: A view; hooks are added to it.
        taps: For each tensor the path of a module (empty for the whole), which of its calls, from 0, and the path
            within its output, or `inputs.0` for its first argument.

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
        return  # a view of a module that has these taps already
    collected = _Collected(tuple(taps))
    for path, reads in _hooked(taps):
        if reads:
            named[path].register_forward_pre_hook(_CollectRead(collected, path))
        else:
            named[path].register_forward_hook(_Collect(collected, path))
    module.register_forward_pre_hook(collected.begin, prepend=True)
    module.register_forward_hook(collected.give)
    module.register_forward_hook(collected.end, always_call=True)


def _hooked(taps: Sequence[tuple[str, int, str]]) -> list[tuple[str, bool]]:
    """The path of each module that gets a hook, and whether the hook takes its first argument."""
    return list(dict.fromkeys((path, leaf == leaves.READ) for path, _, leaf in taps if path))


class _Collected:
    """The tensors that the taps of one view took, separately for each of its running calls.

    Calls may run in parallel threads and replicas, which share hooks, and within each other where a model calls itself.
    Inner modules also run outside of any call, when gradient checkpointing recomputes them.
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
        places = [leaves.place_of_tap(path, leaf) for path, _, leaf in self._taps]
        calls = [call for _, call, _ in self._taps]
        missing = [(path, call) for path, call in zip(places, calls, strict=True) if call >= len(taken.get(path, ()))]
        if missing:
            mode = "train" if module.training else "eval"
            faults = [
                Mismatch(path, f"{call + 1} calls", f"{len(taken.get(path, ()))} calls", 'taps={"...": "..."}')
                for path, call in missing
            ]
            raise VerificationError(f"`{missing[0][0]}` is tapped and did not run in {mode} mode", faults)
        return tuple(
            leaves.leaf(taken[place][call], "output" if leaf == leaves.READ else leaf)
            for place, (_, call, leaf) in zip(places, self._taps, strict=True)
        )

    def end(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """Forget a call that ended, also one that raised."""
        if self._calls.taken:
            self._calls.taken.pop()


class _Collect:
    """A forward hook that can be pickled."""

    def __init__(self, collected: _Collected, path: str) -> None:
        self._collected = collected
        self._path = path

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._collected.take(self._path, output)


class _CollectRead(_Collect):
    """A forward pre-hook that can be pickled; it takes a copy where the tensor is written over later."""

    def __init__(self, collected: _Collected, path: str, *, copies: bool = False) -> None:
        super().__init__(collected, path)
        self._copies = copies

    def __call__(self, _module: nn.Module, args: Any) -> None:  # type: ignore[override]
        taken = leaves.cloned(args[0]) if self._copies else args[0]
        self._collected.take(leaves.place_of_tap(self._path, leaves.READ), taken)

    def copying(self) -> _CollectRead:
        """The same hook, which takes copies."""
        return _CollectRead(self._collected, self._path, copies=True)


def takes_what_is_read(hook: object) -> bool:
    """Whether a hook takes its module's first argument, so that an identity in the module's place serves as well."""
    return isinstance(hook, _CollectRead)


def hand_on_copies(module: nn.Module, taps: Collection[tuple[str, int, str]]) -> None:
    """Protect tapped tensors from being written to by what runs after the tap, once the taps are there.

    The output of a tapped module is passed on as a copy. Of a first argument the tap takes a copy: the module and its
    caller share the tensor, and either may write to it.
    """
    for path, reads in _hooked(list(taps)):
        inner = module.get_submodule(path)
        if reads:
            hooks = inner._forward_pre_hooks
            hooks.update({i: hook.copying() for i, hook in hooks.items() if isinstance(hook, _CollectRead)})
        else:
            inner.register_forward_hook(_handed_on)


def _handed_on(_module: nn.Module, _args: Any, output: Any) -> Any:
    return leaves.cloned(output)


def overwritten(
    module: nn.Module, taps: Sequence[tuple[str, int, str]], run: Callable[[nn.Module], object]
) -> list[tuple[str, int, str]]:
    """The taps whose tensor is written to in place after it was taken and before the whole returns.

    Args:
        module: A copy that may be run; hooks are added to it.
        taps: As for `tap`.
        run: Runs the copy.
    """
    noted: list[tuple[tuple[str, int, str], torch.Tensor, int]] = []

    def note(path: str, reads: bool, value: Any) -> None:
        for one in taps:
            if one[0] == path and (one[2] == leaves.READ) is reads:
                tensor = value if reads else leaves.leaf(value, one[2])
                noted.append((one, tensor, tensor._version))

    def returned(path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        note(path, False, output)

    def read(path: str, _module: nn.Module, args: Any) -> None:
        note(path, True, args[0])

    for path, reads in _hooked(taps):
        inner = module.get_submodule(path)
        if reads:
            inner.register_forward_pre_hook(functools.partial(read, path))
        else:
            inner.register_forward_hook(functools.partial(returned, path))
    run(module)
    return list(dict.fromkeys(one for one, tensor, version in noted if tensor._version != version))
