"""Moved hooks: what callers have put on a module that is replaced goes to what takes its place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import nn

from autoadapt.contracts.capturing.regions import HOOKS, Region, callers_hooks
from autoadapt.errors import Mismatch, SwapError


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Move the hooks of callers, behind those that the new module has; the old one keeps copies.

    The very containers move, since these are what `handle.remove()` takes a hook out of.
    """
    for kind, told in HOOKS.items():
        moved = callers_hooks(old, kind)
        if moved:
            for name in (kind, *told):
                _move(old, new, name, moved)


def _move(old: nn.Module, new: nn.Module, name: str, moved: dict[int, Any]) -> None:
    container: OrderedDict[int, Any] = vars(old)[name]
    own: OrderedDict[int, Any] = vars(new)[name]
    setattr(old, name, OrderedDict(container))
    for number in [number for number in container if number not in moved]:
        del container[number]
    container.update(own)
    for number in [number for number in container if number in moved]:
        container.move_to_end(number)
    setattr(new, name, container)


def refuse_lost_hooks(model: nn.Module, region: Region) -> None:
    """Refuse hooks that would never be called again: on gradients of members, and on modules inside members.

    Raises:
        SwapError: There are such hooks.
    """
    faults = [fault for path in region.members for fault in _lost(model.get_submodule(path), path)]
    if faults:
        raise SwapError(f"`{faults[0].where}` has a hook that would never be called again", faults)


def _lost(member: nn.Module, path: str) -> Iterator[Mismatch]:
    for name, module in member.named_modules():
        for kind in ("_backward_hooks", "_backward_pre_hooks", *(HOOKS if name else ())):
            for hook in callers_hooks(module, kind, within=member).values():
                where = f"{path}.{name}" if name else path
                called = f"{getattr(hook, '__qualname__', type(hook).__name__)} in {where}.{kind}"
                expected = "hooks on what whole members of the region are given or return"
                yield Mismatch(where, expected, called, "handle.remove()  # and register it anew after the swap")
