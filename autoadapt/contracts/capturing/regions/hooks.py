"""Hooks: the forward hooks that callers registered on a module, in contrast to those that are part of how it works."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

HOOKS: Mapping[str, Collection[str]] = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
}
"""The attribute in which a module keeps hooks of each kind, and those in which it keeps their options."""


def callers_hooks(module: nn.Module, kind: str, *, within: nn.Module | None = None) -> dict[int, Any]:
    """The callers' hooks of one kind, by their handles' ids.

    Not among them are torch's own, as for weight norm and pruning, this package's, and methods of the module's parts.

    Args:
        module: The module.
        kind: `_forward_hooks` or `_forward_pre_hooks`.
        within: The module whose parts these may be; by default `module`.
    """
    return {number: hook for number, hook in vars(module)[kind].items() if _is_callers(hook, within or module)}


def _is_callers(hook: Any, module: nn.Module) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    where = getattr(hook, "__module__", None) or type(hook).__module__
    if where.startswith(("torch.nn.utils.", "autoadapt.")):
        return False
    bound_to = getattr(hook, "__self__", None)
    return not any(one is bound_to for part in module.modules() for one in (part, *vars(part).values()) if bound_to)


def hooked(model: nn.Module, paths: Collection[str], kind: str) -> frozenset[str]:
    """The paths, among some, of modules with callers' hooks of one kind."""
    return frozenset(path for path in paths if callers_hooks(model.get_submodule(path), kind))


def leave_before(module: nn.Module, hook: Callable[..., Any]) -> RemovableHandle:
    """Register a forward hook that runs before the callers' hooks."""
    others = callers_hooks(module, "_forward_hooks")
    handle = module.register_forward_hook(hook)
    for number in others:
        module._forward_hooks[number] = module._forward_hooks.pop(number)
    return handle
