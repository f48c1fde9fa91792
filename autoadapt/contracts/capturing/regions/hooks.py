"""Hooks: what callers put on the modules of a region, which reads what goes into them and comes out of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["HOOKS", "callers_hooks", "hooked", "leave_before"]

HOOKS: Mapping[str, Collection[str]] = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
}
"""Where a module keeps hooks on its calls, and what it keeps about them."""


def callers_hooks(module: nn.Module, kind: str, *, within: nn.Module | None = None) -> dict[int, Any]:
    """The hooks of one kind that are no part of how a module works, by their numbers.

    Those are not of torch, as norms of weights and pruning are, nor of this package, nor bound to a part of the module.

    Args:
        module: The module.
        kind: Where it keeps them: `_forward_hooks`, say.
        within: The module around whose parts count; itself, if left out.
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
    """Those of some modules that have hooks of callers of one kind."""
    return frozenset(path for path in paths if callers_hooks(model.get_submodule(path), kind))


def leave_before(module: nn.Module, hook: Callable[..., Any]) -> RemovableHandle:
    """Add a forward hook that sees what a module returns before the hooks of callers do."""
    others = callers_hooks(module, "_forward_hooks")
    handle = module.register_forward_hook(hook)
    for number in others:
        module._forward_hooks[number] = module._forward_hooks.pop(number)
    return handle
