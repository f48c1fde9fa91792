"""Readings: what is read off a module, and how it is called, from outside its own forward pass."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.capturing.arguments import bind_call
from autoadapt.contracts.trees import Tree, flatten, path_texts, rebuild


@dataclass(frozen=True)
class Outcome:
    """What a run returned: containers, shapes and dtypes."""

    tree: Tree
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of each tensor."""
        return tuple(path_texts(self.tree))


@dataclass
class Reading:
    """What was seen of one submodule."""

    calls: list[Arguments] = field(default_factory=list)
    looked_up: set[str] = field(default_factory=set)
    """Leaves taken out of their container by key, index or name."""
    used: set[str] = field(default_factory=set)
    """Leaves that went into tensor code."""
    escaped: dict[str, list[str]] = field(default_factory=dict)
    """Leaves that stand in what the whole model returned, and where."""
    attributes: list[str] = field(default_factory=list)
    """What the rest of the model read off the module."""
    methods: dict[str, list[str]] = field(default_factory=dict)
    """Methods that the rest of the model called, and what these read off the module."""
    inside: dict[str, str] = field(default_factory=dict)
    """Leaves that a module inside returned already, and the path of the outermost such module."""
    depth: int = 0
    within: str = ""
    """The method that the rest of the model is in."""

    @property
    def read(self) -> set[str]:
        """Leaves that must be served: where one tensor stands at several paths, the one that was looked up."""
        return self.looked_up | self.used

    def join(self, other: Reading) -> None:
        """Add what another run showed."""
        self.looked_up |= other.looked_up
        self.used |= other.used
        for path, places in other.escaped.items():
            self.escaped[path] = [*dict.fromkeys([*self.escaped.get(path, []), *places])]
        self.attributes = [*dict.fromkeys([*self.attributes, *other.attributes])]
        self.methods = other.methods | self.methods


_ORDINARY = frozenset(dir(nn.Module)) | frozenset(nn.Module().__dict__)
"""What every module has."""
_OVERRIDDEN = frozenset({"train", "eval", "state_dict", "load_state_dict", "to", "requires_grad_", "zero_grad"})
"""Methods among them that classes write anew, and that others call."""


def observed(cls: Any, reading: Reading, returned: Callable[[Reading, object], object]) -> Any:
    """A subclass whose modules note what is read off them, and each call, from outside their own forward pass."""
    own = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    noted = _noted_calls(cls, reading, returned) | _noted_attributes(cls, reading)
    made: Any = type(cls)(cls.__name__, (cls,), own | noted)
    return made


def _noted_calls(
    cls: Any, reading: Reading, returned: Callable[[Reading, object], object]
) -> dict[str, Callable[..., object]]:
    """Methods that note with which arguments a module is called."""

    def record(self: nn.Module, run: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        if reading.depth:
            return run(*args, **kwargs)
        reading.calls.append(_snapshot(bind_call(self, args, kwargs)))
        reading.depth += 1
        try:
            value = run(*args, **kwargs)
        finally:
            reading.depth -= 1
        return returned(reading, value)

    def called(self: Any, *args: Any, **kwargs: Any) -> object:
        return record(self, functools.partial(cls.__call__, self), args, kwargs)

    @functools.wraps(cls.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> object:
        return record(self, functools.partial(cls.forward, self), args, kwargs)

    return {"__call__": called, "forward": forward}


def _noted_attributes(cls: Any, reading: Reading) -> dict[str, Callable[..., object]]:
    """Methods that note which attributes of a module are read."""

    def getattribute(self: Any, name: str) -> Any:
        if reading.depth or name in _ORDINARY or name.startswith("__"):
            value = cls.__getattribute__(self, name)
            return _followed(value, "", reading) if name in _OVERRIDDEN and not reading.depth else value
        if reading.within:
            if name not in reading.methods[reading.within]:
                reading.methods[reading.within].append(name)
            return cls.__getattribute__(self, name)
        value = cls.__getattribute__(self, name)
        if isinstance(value, types.MethodType) and value.__self__ is self:
            reading.methods.setdefault(name, [])
            return _followed(value, name, reading)
        if name not in reading.attributes:
            reading.attributes.append(name)
        return value

    def getattr_(self: Any, name: str) -> Any:
        value = cls.__getattr__(self, name)
        if not reading.depth and not reading.within and name not in reading.attributes:
            reading.attributes.append(name)
        return value

    return {"__getattribute__": getattribute, "__getattr__": getattr_}


def _followed(method: Callable[..., Any], name: str, reading: Reading) -> Callable[..., Any]:
    """The method, with what it reads off its module noted under a name.

    Without one nothing is noted: what a class reads off itself in `train`, say, is its own affair.
    """

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        before, reading.within = reading.within, name or reading.within
        reading.depth += not name
        try:
            return method(*args, **kwargs)
        finally:
            reading.depth -= not name
            reading.within = before

    return run


def _snapshot(arguments: Arguments) -> Arguments:
    """The arguments as they are now: a dict may be filled in by the call."""
    tree, tensors = flatten(arguments.values)
    try:
        return Arguments(rebuild(tree, tensors), arguments.positional)
    except Exception:  # something that cannot be made anew; it is handed on
        return arguments
