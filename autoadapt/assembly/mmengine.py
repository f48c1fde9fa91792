"""mmengine: its registries read both ways, where it is installed."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from autoadapt.assembly.configs import GROUPS, Group
from autoadapt.assembly.registry import PARTS, Part, Registry, takes_of
from autoadapt.errors import AssemblyError, Mismatch, nearest

__all__ = [
    "is_model",
    "lent",
    "mm_part",
    "registered_part",
    "share_with_mmengine",
    "start_registered",
    "within_scope",
]

_OURS = "autoadapt"
"""The scope of our own parts in its registry."""


def mm_part(group: Group, name: str, where: str, scope: str = "") -> Part | Mismatch:
    """A part that a package has registered in mmengine's `MODELS`, or why there is none.

    Args:
        group: What it is used as; necks and heads there take a tuple of levels.
        name: Its name there, such as `GlobalAveragePooling` or `mmpretrain.ResNet_CIFAR`.
        where: Its place in the config.
        scope: In which registry it is looked up first.
    """
    try:
        models = _models()
    except AssemblyError as error:
        fault = error.mismatches[0]
        return Mismatch(where, fault.expected, fault.found, fault.remedy)
    found = _scoped(models, name, scope)
    if len(found) > 1:
        remedy = "\n".join(f"mm:{other}" for other in found)
        return Mismatch(where, "one part in mmengine's MODELS", f"`{name}` in several: {', '.join(found)}", remedy)
    made = models.get(found[0] if found else name)
    if made is None:
        near = "\n".join(f"mm:{other}" for other in nearest(name, _names(models)))
        remedy = near or "import the package that registers it"
        return Mismatch(where, "a part in mmengine's MODELS", f"`{name}`", remedy)
    name = found[0] if found else name
    takes = takes_of(made) if inspect.isclass(made) else ("any",)
    takes = ("tuple",) if takes == ("any",) and group in ("neck", "head") else takes
    return Part(f"mm:{name}", made, takes, nested=_as_config)


def _as_config(value: Any) -> Any:
    """Mappings as the parts there read them, also by attribute, and copies, which they may change."""
    config: Any = importlib.import_module("mmengine.config").ConfigDict
    if isinstance(value, Mapping):
        return config({key: _as_config(child) for key, child in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_as_config(child) for child in value)
    return value


def registered_part(
    group: Group, name: str, where: str, allow: Sequence[str | Path], scope: str = ""
) -> Part | Mismatch | None:
    """The part of a bare name in mmengine's registry, where mmengine is imported already or allowed.

    Args:
        group: What it is used as.
        name: Its name there.
        where: Its place in the config.
        allow: What the caller allows; `mmengine` lets it be imported.
        scope: In which registry it is looked up first.
    """
    if "mmengine.registry" not in sys.modules and "mmengine" not in allow:
        return None
    try:
        models = _models()
    except AssemblyError:
        return None
    return mm_part(group, name, where, scope) if _scoped(models, name, scope) else None


def _scoped(models: Any, name: str, scope: str) -> list[str]:
    """The full names of what a name may stand for: in the default scope, else at the root, else in any scope."""
    names = [other for other in _names(models) if other.partition(".")[0] != _OURS]
    current = importlib.import_module("mmengine.registry").DefaultScope.get_current_instance()
    scoped = f"{current.scope_name}.{name}" if current is not None else name
    for exact in (f"{scope}.{name}", scoped, name):
        if exact in names:
            return [exact]
    return [other for other in names if other.endswith(f".{name}")]


def share_with_mmengine(registry: Registry = PARTS) -> None:
    """Make the registered parts known to mmengine, under the scope `autoadapt`.

    A config there can then say `dict(type="autoadapt.GlobalAveragePooling")`.

    Raises:
        AssemblyError: mmengine is not installed.
    """
    models = _models()
    shared = models.children.get(_OURS) or type(models)("model", parent=models, scope=_OURS)
    for group in GROUPS:
        for name in registry.names(group):
            part = registry.get(group, name)
            assert part is not None, "a name of the registry has a part"
            shared.register_module(name=name, module=part.make, force=True)


@contextlib.contextmanager
def within_scope(scope: str) -> Iterator[None]:
    """What is built looks its parts up in this registry first, as a Runner with that `default_scope` lets it."""
    default = importlib.import_module("mmengine.registry").DefaultScope
    with default.overwrite_default_scope(scope or None):
        yield


@contextlib.contextmanager
def lent(module: nn.Module) -> Iterator[dict[str, str]]:
    """A config that builds to a module that is there already, for as long as the context lasts."""
    models, scope = _models(), f"{_OURS}_lent"
    registry = type(models)("model", parent=models, scope=scope)
    registry.register_module(name="Module", module=lambda: module)
    try:
        yield {"type": f"{scope}.Module"}
    finally:
        del models.children[scope]


def is_model(module: nn.Module) -> bool:
    """Whether a module takes `(inputs, data_samples, mode)`, as every model of a Runner does."""
    return isinstance(module, importlib.import_module("mmengine.model").BaseModel)


def start_registered(module: nn.Module) -> None:
    """Start the weights of a part of mmengine, as a Runner does before it trains; other modules are left alone.

    Args:
        module: Changed in place.
    """
    if "mmengine.model" not in sys.modules or not isinstance(module, sys.modules["mmengine.model"].BaseModule):
        return
    logger = importlib.import_module("mmengine.logging").MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it would list every parameter
    try:
        module.init_weights()
    finally:
        logger.setLevel(level)


def _models() -> Any:
    try:
        return importlib.import_module("mmengine.registry").MODELS
    except ImportError as error:
        fault = Mismatch("mmengine", "an installed mmengine", str(error), "pip install mmengine")
        raise AssemblyError("mmengine is not installed", [fault]) from error


def _names(registry: Any) -> list[str]:
    """The names of a registry and, with their scopes, of those below it."""
    children = registry.children.items()
    below = [f"{scope}.{name}" for scope, child in children for name in _names(child)]
    return [*registry.module_dict, *below]
