"""Dry runs: the signatures that one has captured, kept for the swap that follows.

They are used again only where nothing can have changed: the same module objects with the same tensors at the same
versions, the same attributes, hooks and modes, and inputs of the same values. Where a module holds something whose
state cannot be read, it is captured again.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.trees import flatten
from autoadapt.contracts.unfit import default_device

State: TypeAlias = tuple[Any, ...]

_DEEPEST = 60
_MOST = 200_000
"""How many objects within each other, and in all, are read."""
_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, enum.Enum, PurePath, slice, range, type(...)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)


@dataclass(frozen=True)
class _Kept:
    """What a capture depended on, and what it said."""

    state: State
    alive: tuple[weakref.ref[Any], ...]
    """All objects whose identity is part of the state: while they live, no other can be taken for one of them."""
    signature: Signature


_KEPT: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()


def captured_once(
    module: nn.Module,
    arguments: Arguments,
    capture: Callable[[], Signature],
    *,
    keep: bool,
    besides: Iterable[object] = (),
) -> Signature:
    """The signature that a dry run has captured, where all that it depends on is as it was; else a new one.

    Args:
        module: What is captured; what is kept goes with it.
        arguments: The call at which it is.
        capture: Captures it.
        keep: Whether to keep what was captured, as a dry run does.
        besides: What else the signature depends on.
    """
    kept = _KEPT.pop(module, None)
    if kept is None and not keep:
        return capture()
    now = _state(module, arguments, besides)
    if kept is not None and now is not None and now[0] == kept.state and all(one() is not None for one in kept.alive):
        signature = kept.signature
    else:
        signature = capture()
    if keep and now is not None:
        _KEPT[module] = _Kept(*now, signature)
    return signature


def _state(
    module: nn.Module, arguments: Arguments, besides: Iterable[object]
) -> tuple[State, tuple[weakref.ref[Any], ...]] | None:
    """All that a capture depends on, as far as objects show it; None where they do not."""
    reader = _Reader()
    try:
        tree, tensors = flatten(arguments.values)
        inputs = (repr(tree), arguments.positional, *map(_values, tensors))
        settings = torch.get_default_dtype(), default_device(), torch.is_inference_mode_enabled()
        read = (reader.read(module), inputs, settings, *map(reader.read, besides))
    except Exception:  # objects may raise whatever they like when they are looked at
        return None
    return read, tuple(reader.alive)


def _values(tensor: torch.Tensor) -> State:
    """A tensor by what it holds, since a run of the whole model makes it anew each time."""
    if tensor.is_meta:
        return tuple(tensor.shape), tensor.stride(), tensor.dtype
    plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    digest = hashlib.blake2b(plain.tobytes()).hexdigest()
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad, digest


class _UnreadableError(Exception):
    """An object does not show its state."""


class _Python:
    """An object whose attributes are all in its `__dict__`."""


class _Reader:
    """Reads the state of objects into tuples that can be compared."""

    def __init__(self) -> None:
        self.alive: list[weakref.ref[Any]] = []
        self._seen: dict[int, tuple[int, object]] = {}

    def read(self, value: Any, depth: int = 0) -> Any:
        """The state of a value, each object only once.

        Raises:
            _UnreadableError: It cannot be told.
        """
        if isinstance(value, _PLAIN):
            return type(value), value
        if id(value) in self._seen:
            return "again", self._seen[id(value)][0]
        if depth > _DEEPEST or len(self._seen) > _MOST:
            raise _UnreadableError
        self._seen[id(value)] = len(self._seen), value
        return type(value), *self._parts(value, depth + 1)

    def _parts(self, value: Any, depth: int) -> State:
        match value:
            case torch.Tensor():
                at = value.data_ptr(), value._version, value.stride(), value.requires_grad
                return self._identity(value), *at, *self._all([tuple(value.shape), value.dtype, vars(value)], depth)
            case list() | tuple() | deque():
                return *self._all(value, depth), *self._attributes(value, depth)
            case dict():
                made = getattr(value, "default_factory", None)
                return *self._all([made, *value, *value.values()], depth), *self._attributes(value, depth)
            case set() | frozenset():
                return tuple(sorted(repr(self.read(one, depth)) for one in value))
            case np.ndarray() if value.dtype != object:
                return value.shape, value.dtype.str, hashlib.blake2b(value.tobytes()).hexdigest()
            case functools.partial():
                return self._all([value.func, value.args, value.keywords, vars(value)], depth)
            case types.FunctionType():
                held = [cell.cell_contents for cell in value.__closure__ or ()]
                own = [value.__defaults__, value.__kwdefaults__, value.__code__, vars(value)]
                return self._identity(value), *self._all([*held, *own], depth)
            case types.MethodType():
                return self._all([value.__func__, value.__self__], depth)
            case type():
                return self._class(value)
            case types.CodeType() | types.BuiltinFunctionType() | types.ModuleType():
                return (self._identity(value),)
            case _ if type(value).__basicsize__ <= _Python.__basicsize__ and hasattr(value, "__dict__"):
                return *self.read(type(value), depth), *self._attributes(value, depth)
        raise _UnreadableError

    def _all(self, values: Iterable[Any], depth: int) -> State:
        return tuple(self.read(one, depth) for one in values)

    def _attributes(self, value: Any, depth: int) -> State:
        return tuple((name, self.read(one, depth)) for name, one in getattr(value, "__dict__", {}).items())

    def _class(self, kind: type) -> State:
        """A class by its methods and plain attributes, and those that it inherits from code other than torch's."""
        own = [one for one in kind.__mro__ if one.__module__.partition(".")[0] not in ("builtins", "torch")]
        members = [(name, member) for one in own for name, member in vars(one).items()]
        methods = [self._identity(member) for _, member in members if isinstance(member, types.FunctionType)]
        plain = [(name, member) for name, member in members if isinstance(member, _PLAIN)]
        return self._identity(kind), *methods, *plain

    def _identity(self, value: Any) -> int:
        self.alive.append(weakref.ref(value))
        return id(value)
