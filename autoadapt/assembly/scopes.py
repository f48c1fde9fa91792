"""Scopes: what the `type` of a part names: a registered part, a class of torch, a model of a zoo, or allowed code."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from autoadapt.assembly.configs import Group
from autoadapt.assembly.mmengine import mm_part, registered_part
from autoadapt.assembly.registry import Part, Registry, takes_of
from autoadapt.errors import AdaptError, Mismatch, nearest
from autoadapt.sources import list_models, load_backbone, load_object, schemes
from autoadapt.sources.permissions import refuse_foreign
from autoadapt.sources.zoos import nothing_fetched

_CHANNELS_OPTIONS = {"timm": "in_chans", "smp": "in_channels", "hf": "num_channels"}


@dataclass(frozen=True)
class Scopes:
    """Where types are looked up.

    Args:
        registry: The parts without a scope.
        allow: Packages and files whose code may run.
        default: The registry of mmengine's in which bare names are looked up first.
    """

    registry: Registry
    allow: tuple[str | Path, ...] = ()
    default: str = ""

    def within(self, default: str) -> Scopes:
        """The same with another registry that goes first."""
        return replace(self, default=default or self.default)

    def whole(self, name: str, where: str) -> Part | Mismatch | None:
        """A whole model of mmengine's registries, or none where that has no such name."""
        if name.startswith("mm:"):
            return mm_part("backbone", name.removeprefix("mm:"), where, self.default)
        return registered_part("backbone", name, where, self.allow, self.default)

    def find(self, group: Group, name: str, where: str) -> Part | Mismatch:
        """The part that a type names, or why there is none."""
        scope, colon, inner = name.partition(":")
        if not colon and not name.endswith(".pt2"):
            registered = registered_part(group, name, where, self.allow, self.default)
            return registered or self.registry.get(group, name) or self._unknown(group, name, where)
        if scope == "torch":
            return _module_class(nn, name, inner.removeprefix("nn."), where)
        if scope == "mm":
            return mm_part(group, inner, where, self.default)
        if scope in schemes():
            return self._from_zoo(group, name, where)
        return self._from_code(group, name, where)

    def _unknown(self, group: Group, name: str, where: str) -> Mismatch:
        known = self.registry.names(group)
        others = [other for other in self.registry.groups_of(name) if other != group]
        tries = nearest(name, known)
        if others:
            tries = [f"{others[0]}: {{type: {name}}}  # it is a {others[0]}"]
        elif hasattr(nn, name):
            tries = [f"torch:{name}", *tries]
        elif group == "backbone":
            zoo = list_models(name)[:3]
            is_exact = any(model.partition(":")[2] == name for model in zoo)
            tries = [*zoo, *tries] if is_exact else [*tries, *zoo]
        return Mismatch(where, f"a registered {group}: {', '.join(known)}", f"`{name}`", "\n".join(tries))

    def _backbone(self, name: str, **options: Any) -> nn.Module:
        """A model of a zoo; what the config asks to be fetched or read besides published weights needs a word."""
        refuse_foreign("backbone", name, options, self.allow, published=True)
        is_allowed = bool(options.get("pretrained")) or name.partition(":")[2] in map(str, self.allow)
        with nothing_fetched(not is_allowed):
            return load_backbone(name, **options)

    def _from_zoo(self, group: Group, name: str, where: str) -> Part | Mismatch:
        if group == "backbone":
            option = _CHANNELS_OPTIONS.get(name.partition(":")[0], "")
            return Part(name, functools.partial(self._backbone, name), is_open=True, channels_option=option)
        scope, _, inner = name.partition(":")
        if scope == "torchvision":
            return _module_class(importlib.import_module("torchvision.ops"), name, inner, where)
        return Mismatch(where, f"a {group}", f"a model of {scope}", f"backbone: {{type: {name}}}")

    def _from_code(self, group: Group, name: str, where: str) -> Part | Mismatch:
        """A python path or an exported file, if the caller allows it; a config by itself never can."""
        if name.endswith(".pt2"):
            return Part(name, functools.partial(load_backbone, name, allow=self.allow), is_open=True)
        try:
            made = load_object(name, self.allow)
        except AdaptError as error:
            return _not_allowed(name, where, error.mismatches[0])
        if not callable(made):
            return Mismatch(where, "a class, or a function that makes a module", type(made).__name__, "name the class")
        return Part(name, made, takes_of(made))


def _not_allowed(name: str, where: str, fault: Mismatch) -> Mismatch:
    scope, _, inner = name.partition(":")
    near = nearest(scope, ["torch", "mm", *schemes()], count=1) if "." not in scope else []
    remedy = f"assemble(config, {fault.remedy})" if fault.remedy.startswith("allow=") else fault.remedy
    expected = "a registered part, a model of a zoo, or code that is allowed"
    return Mismatch(where, expected, name, f"{near[0]}:{inner}" if near else remedy, fault.found)


def _module_class(package: Any, name: str, inner: str, where: str) -> Part | Mismatch:
    """A module class of a package; nothing else of it can be named."""
    known = [key for key, value in vars(package).items() if isinstance(value, type) and issubclass(value, nn.Module)]
    if inner not in known:
        scope = name.partition(":")[0]
        remedy = "\n".join(f"{scope}:{other}" for other in nearest(inner, known))
        return Mismatch(where, f"a module class of {package.__name__}", f"`{inner}`", remedy)
    made: Callable[..., nn.Module] = getattr(package, inner)
    return Part(name, made, takes_of(made))
