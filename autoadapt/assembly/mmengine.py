"""mmengine: its registries read both ways, where it is installed."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from autoadapt.assembly.configs import GROUPS, Group
from autoadapt.assembly.registry import PARTS, Part, Registry, takes_of
from autoadapt.errors import AssemblyError, Mismatch, nearest

__all__ = ["mm_part", "share_with_mmengine"]


def mm_part(group: Group, name: str, where: str) -> Part | Mismatch:
    """A part that a package has registered in mmengine's `MODELS`, or why there is none.

    Args:
        group: What it is used as; necks and heads there take a tuple of levels.
        name: Its name there, such as `GlobalAveragePooling` or `mmpretrain.ResNet_CIFAR`.
        where: Its place in the config.
    """
    try:
        models = _models()
    except AssemblyError as error:
        fault = error.mismatches[0]
        return Mismatch(where, fault.expected, fault.found, fault.remedy)
    made = models.get(name)
    if made is None:
        near = "\n".join(f"mm:{other}" for other in nearest(name, _names(models)))
        remedy = near or "import the package that registers it"
        return Mismatch(where, "a part in mmengine's MODELS", f"`{name}`", remedy)
    takes = takes_of(made) if inspect.isclass(made) else ("any",)
    return Part(f"mm:{name}", made, ("tuple",) if takes == ("any",) and group in ("neck", "head") else takes)


def share_with_mmengine(registry: Registry = PARTS) -> None:
    """Make the registered parts known to mmengine, under the scope `autoadapt`.

    A config there can then say `dict(type="autoadapt.GlobalAveragePooling")`.

    Raises:
        AssemblyError: mmengine is not installed.
    """
    models = _models()
    shared = models.children.get("autoadapt") or type(models)("model", parent=models, scope="autoadapt")
    for group in GROUPS:
        for name in registry.names(group):
            part = registry.get(group, name)
            assert part is not None, "a name of the registry has a part"
            shared.register_module(name=name, module=part.make, force=True)


def _models() -> Any:
    try:
        return importlib.import_module("mmengine.registry").MODELS
    except ImportError as error:
        fault = Mismatch("mmengine", "an installed mmengine", str(error), "pip install mmengine")
        raise AssemblyError("mmengine is not installed", [fault]) from error


def _names(registry: Any) -> list[str]:
    """The names of a registry and, with their scopes, of those below it."""
    below = [f"{scope}.{name}" for scope, child in registry.children.items() for name in _names(child)]
    return [*registry.module_dict, *below]
