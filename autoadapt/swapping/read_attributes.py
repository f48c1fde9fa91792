"""Surfaces: what the rest of a model reads off a module besides its outputs, and having another module say it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.contracts.capturing.devices import device_of
from autoadapt.contracts.instances import dtype_of
from autoadapt.contracts.trees import flatten
from autoadapt.errors import Mismatch


@dataclass(frozen=True)
class Surface:
    """What a module is to say besides its outputs."""

    values: dict[str, Any] = field(default_factory=dict)
    """As the old module says them."""
    methods: dict[str, Callable[..., Any]] = field(default_factory=dict)
    """Functions of the old class, to run on the new module."""
    properties: dict[str, Callable[..., Any]] = field(default_factory=dict)
    """What follows the module when it is moved or cast."""

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that is said."""
        return tuple(sorted([*self.values, *self.properties, *(f"{name}()" for name in self.methods)]))

    def put_on(self, net: nn.Module) -> None:
        """Have a module say it."""
        for name, value in self.values.items():
            setattr(net, name, copy.deepcopy(value))
        functions = self.methods | self.properties
        if functions:
            assert isinstance(net, AdaptedModule), "only an adapted module borrows"
            net.borrow(functions, properties=self.properties.keys())


def find_surface(
    old: nn.Module, attributes: Sequence[str], methods: Mapping[str, Sequence[str]], path: str
) -> tuple[Surface, list[Mismatch]]:
    """What another module must say in place of the old one, and a fault for each thing that it cannot say truly.

    Args:
        old: The module that is read now.
        attributes: What is read.
        methods: What is called, and what these methods read in turn.
        path: Where the old module stands, for the texts.
    """
    surface, faults = Surface(), list[Mismatch]()
    through = {name: method for method, names in methods.items() for name in names}
    for name in dict.fromkeys([*attributes, *methods, *through]):
        function = inspect.getattr_static(type(old), name, None)
        value = getattr(old, name)
        if why := _refusal(name, value, function):
            faults.append(_fault(path, name, why, "" if name in attributes else through.get(name, "")))
        elif isinstance(function, FunctionType):
            surface.methods[name] = function
        elif isinstance(value, (torch.dtype, torch.device)):
            surface.properties[name] = dtype_of if isinstance(value, torch.dtype) else device_of
        else:
            surface.values[name] = value
    return surface, faults


def plain_attributes(old: nn.Module) -> dict[str, Any]:
    """Numbers and texts that were put on a module, which frameworks read off it.

    Example:
        >>> layer = nn.ReLU()
        >>> layer.f, layer.type = -1, "torch.nn.ReLU"
        >>> plain_attributes(layer)
        {'inplace': False, 'f': -1, 'type': 'torch.nn.ReLU'}
    """
    own = {name: value for name, value in vars(old).items() if not name.startswith("_") and name != "training"}
    return {name: copy.copy(value) for name, value in own.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


_TAKEN = frozenset(dir(AdaptedModule)) | {"backbone", "adapters"}


def _refusal(name: str, value: Any, function: Any) -> str:
    """Why another module cannot say this; empty where it can."""
    if name in _TAKEN:
        return "the adapted module has something else of that name"
    if isinstance(function, FunctionType):
        return ""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    if any(isinstance(one, nn.Module) for one in (value, *items)):
        return "it is a part of the old module"
    if flatten(value)[1]:
        return "it holds weights of the old module"
    return "it is a function bound to the old module" if callable(value) and not isinstance(value, type) else ""


def _fault(path: str, name: str, why: str, through: str) -> Mismatch:
    by = f"the rest of the model reads it, through {through}()" if through else "the rest of the model reads it"
    remedy = "swap a module further inside, or the one around it"
    return Mismatch(f"{path}.{name}", by, "something that holds for another module as well", remedy, why)
