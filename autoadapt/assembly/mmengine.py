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
    if not found:  # `models.get` would import it as a python path
        near = "\n".join(f"mm:{other}" for other in nearest(name, _names(models)))
        remedy = near or "import the package that registers it"
        return Mismatch(where, "a part in mmengine's MODELS", f"`{name}`", remedy)
    name = found[0]
    made = _table(models)[name]
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
    if not is_imported() and "mmengine" not in allow:
        return None
    try:
        models = _models()
    except AssemblyError:
        return None
    return mm_part(group, name, where, scope) if _scoped(models, name, scope) else None


def is_imported() -> bool:
    """Whether there are registries of mmengine's in this process."""
    return "mmengine.registry" in sys.modules


def known_scopes() -> set[str]:
    """The scopes of all registries; mmengine imports the package of any other scope that a config names."""
    return {scope for root in _roots(is_start=None) for scope in _scopes(root)}


def registered_names(*, is_start: bool) -> set[str]:
    """Every name, with and without its scope, in the tables of the registries.

    Args:
        is_start: Whether of the starts of weights, or of everything else.
    """
    operators = getattr(sys.modules.get("mmcv.ops"), "__all__", ())  # mmdet takes `nms` and `RoIAlign` from there
    names = set() if is_start else set(operators)
    for root in _roots(is_start=is_start):
        known = _table(root)
        bare = (key.rpartition(".")[2] for key in known if not key.startswith(f"{_OURS}."))
        names |= {*known, *(f"{root.scope}.{key}" for key in known), *bare}
    return names


def _roots(*, is_start: bool | None) -> list[Any]:
    """The topmost registries that parts are built from; None asks for those of starts and of parts.

    They are mmengine's models and the tools of their tasks, and what a library has apart from mmengine's, as mmpretrain
    its tokenizers. A name of another one, as of runners, would not be found and be imported as a module.
    """
    registries = importlib.import_module("mmengine.registry")
    starts, models = [registries.WEIGHT_INITIALIZERS], registries.MODELS
    if is_start:
        return starts
    modules = [sys.modules[f"{scope}.registry"] for scope in models.children if f"{scope}.registry" in sys.modules]
    values = [value for module in modules for value in vars(module).values() if isinstance(value, registries.Registry)]
    of_mmengine = {id(value) for value in vars(registries).values()}
    apart = {id(value): value for value in values if value.parent is None and id(value) not in of_mmengine}
    return [models, registries.TASK_UTILS, *apart.values(), *(starts if is_start is None else [])]


def _scopes(registry: Any) -> Iterator[str]:
    yield registry.scope
    for child in registry.children.values():
        yield from _scopes(child)


def _scoped(models: Any, name: str, scope: str) -> list[str]:
    """The full names of what a name may stand for: in the default scope, else at the root, else in any scope."""
    names = [other for other in _names(models) if other.partition(".")[0] != _OURS]
    current = importlib.import_module("mmengine.registry").DefaultScope.get_current_instance()
    scoped = f"{current.scope_name}.{name}" if current is not None else name
    for exact in (f"{scope}.{name}", scoped, name, name.removeprefix(f"{models.scope}.")):
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
    with default.overwrite_default_scope(scope if scope in known_scopes() else None):  # of others it imports a package
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
    return list(_table(registry))


def _table(registry: Any) -> dict[str, Any]:
    """What a registry and, with their scopes, those below it have, by name.

    A library that is imported may leave its modules until its registry is first asked: those are imported here, which
    the library says, not the config.
    """
    if registry.parent is not None and getattr(registry, "_locations", None):
        with contextlib.suppress(ImportError):
            registry.import_from_location()
    below = {
        f"{scope}.{name}": made for scope, child in registry.children.items() for name, made in _table(child).items()
    }
    return {**registry.module_dict, **below}
