"""Places: where in a bigger model a module stands, by path or pattern, and setting others there."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from autoadapt.contracts.instances import paths_above
from autoadapt.contracts.plain_modules import registering, replace_plain
from autoadapt.errors import Mismatch, SwapError, nearest


@dataclass(frozen=True)
class Place:
    """A submodule and every path at which it stands."""

    path: str
    module: nn.Module
    also_at: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All its paths, the one that was asked for first."""
        return (self.path, *self.also_at)


def find_places(model: nn.Module, pattern: str) -> list[Place]:
    """The submodules that a path or pattern names, in the order of the model.

    Args:
        model: The bigger model.
        pattern: A path such as `layers.3`, or a pattern such as `heads.gat2s.*`; a star stays within its part.

    Raises:
        SwapError: Nothing has that path, or the pattern names a module and another one inside it.

    Example:
        >>> heads = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
        >>> [place.path for place in find_places(nn.ModuleDict({"heads": heads}), "heads.*")]
        ['heads.a', 'heads.b']
    """
    named = {path: module for path, module in model.named_modules(remove_duplicate=False) if path}
    places: dict[int, Place] = {}
    for path in named_paths(model, pattern):
        module = named[path]
        others = tuple(other for other, same in named.items() if same is module and other != path)
        places.setdefault(id(module), Place(path, module, others))
    _refuse_nested(list(places.values()))
    _refuse_scripts(model, list(places.values()))
    return list(places.values())


def named_paths(model: nn.Module, pattern: str) -> list[str]:
    """The paths that a path or pattern names.

    Raises:
        SwapError: Nothing has that path.
    """
    if not pattern:
        fault = Mismatch("path", "the path of a submodule", "''", "aa.adapt(new, like=model, inputs=x)")
        raise SwapError("the whole model cannot be swapped inside itself", [fault])
    named = {path: module for path, module in model.named_modules(remove_duplicate=False) if path}
    found = [path for path in named if path == pattern] or [
        path for path, module in named.items() if _matches(path, pattern) and not isinstance(module, _NEVER_CALLED)
    ]
    if not found:
        raise _misspelt(pattern, named, registering(model, pattern))
    return found


_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict)


def _matches(path: str, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _misspelt(pattern: str, named: Mapping[str, nn.Module], registered: str) -> SwapError:
    if registered:
        found = "one in a plain attribute, which PyTorch does not see"
        fault = Mismatch(pattern, "a registered module", found, registered)
        return SwapError(f"`{pattern}` is no submodule", [fault])
    near = nearest(pattern, named)
    found = "no module of that name" + (f"; nearest: {', '.join(near)}" if near else "")
    remedy = f'swap(model, "{near[0]}", ...)' if near else "print(model)"
    fault = Mismatch(pattern, "a path in named_modules()", found, remedy)
    return SwapError(f"there is no module at `{pattern}`", [fault])


def _refuse_nested(places: list[Place]) -> None:
    for place in places:
        inner = {id(module) for module in place.module.modules()} - {id(place.module)}
        for other in places:
            if id(other.module) in inner:
                fault = Mismatch(other.path, "places apart from each other", f"it stands inside {place.path}", "")
                raise SwapError(f"`{place.path}` and `{other.path}` cannot both be swapped", [fault])


def _refuse_scripts(model: nn.Module, places: list[Place]) -> None:
    """Refuse compiled modules: what the rest of the model does with their outputs cannot be watched.

    Raises:
        SwapError: One of the places is one, or stands inside one.
    """
    faults = []
    for place in places:
        above = ["", *paths_above(place.path), place.path]
        script = next((p for p in above if isinstance(model.get_submodule(p), torch.jit.ScriptModule)), None)
        if script is not None:
            found = f"a ScriptModule at `{script}`" if script else "a ScriptModule"
            remedy = "swap before torch.jit.script"
            if script == place.path:
                remedy = f"model.{script} = aa.adapt(new, like=model.{script}, inputs=x)  # x: what it is called with"
            faults.append(Mismatch(place.path, "a module in Python", found, remedy))
    if faults:
        raise SwapError(f"`{faults[0].where}` is compiled, so that nothing can be watched there", faults)


def set_modules(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Set modules at paths, and where plain lists hold the old ones; all of them, or none where one cannot be set."""
    before = {path: model.get_submodule(path) for path in modules}
    take_back = replace_plain(model, {before[path]: module for path, module in modules.items()})
    try:
        for path, module in modules.items():
            _set(model, path, module)
    except BaseException:  # also an interruption by the user
        take_back()
        for path, module in before.items():
            _set(model, path, module)
        raise


def _set(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent).register_module(name, module)
