"""Caches: what a module's code keeps outside of the module between calls, recorded before a probe and restored after.

Code may keep a table for each size in a `functools.lru_cache`, on a class, in a global, in a default argument or in a
closure. A run on the meta device leaves tables without values there, which the user's own model would read. It may also
leave the size of its input where code keeps that of the first call and requires it of all later ones.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import functools
import gc
import operator
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from autoadapt.contracts.instances import contents_of, parts_of

T = TypeVar("T")

_FOREIGN = frozenset({"torch", "numpy", "autoadapt", *sys.stdlib_module_names}) - {"__main__"}
"""Packages whose own code keeps no tensors of a model."""
_LARGEST = 100_000
"""Containers of more entries are data and no caches."""
_DEEPEST = 6
"""Levels of nested containers and objects that are searched."""
_MOST_VALUES = 1_500
"""Objects that are searched, those nearest to the module first: code of large libraries reaches nearly all of them."""
_ABSENT = object()

_SHARED_BY_COPIES = (types.FunctionType, functools.partial, functools._lru_cache_wrapper, type)
"""Types whose objects `copy.deepcopy` returns unchanged."""
_HOLDERS = (
    types.SimpleNamespace,
    collections.UserDict,
    weakref.WeakKeyDictionary,
    weakref.WeakValueDictionary,
    functools.cached_property,
)
"""Classes of the standard library whose objects serve as caches."""
_PLAIN = (torch.Tensor, nn.Module, types.ModuleType, types.BuiltinFunctionType, str, bytes, int, float, type(None))
_METHODS = (types.FunctionType, staticmethod, classmethod, property, functools.cached_property)
_CODE = (type, types.ModuleType, types.FunctionType, str, bytes, int, float)


def apart(call: Callable[..., T], *args: Any) -> T:
    """What a call returns, made in a copy of the context, so that context variables that it sets are lost."""
    return contextvars.copy_context().run(call, *args)


class OutsideCaches:
    """A record of all caches that the code of a module can reach outside of the module.

    The search starts at the classes and hooks of the module, and follows the functions, classes and globals that their
    code names.

    Args:
        module: The module; it is only read.
    """

    def __init__(self, module: nn.Module) -> None:
        self._seen: dict[int, object] = {}
        self._places: list[Callable[[], None]] = []
        self._waiting = collections.deque[tuple[Any, int]]()
        self._named: set[str] = set()
        self._members: dict[str, list[tuple[Any, int]]] = {}
        for part in parts_of(module):
            hooks = [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
            shared = [value for value in vars(part).values() if isinstance(value, _SHARED_BY_COPIES)]
            self._waiting += [(value, 0) for value in (type(part), *hooks, *shared)]
            self._note_torch_classes(type(part))
        while self._waiting and len(self._seen) < _MOST_VALUES:
            value, depth = self._waiting.popleft()
            if depth <= _DEEPEST and id(value) not in self._seen:
                self._seen[id(value)] = value
                with contextlib.suppress(Exception):  # an object may raise anything when its attributes are read
                    self._look_into(value, depth)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Restore the caches at the end of a block, also where it raises."""
        try:
            yield
        finally:
            self.put_back()

    def put_back(self) -> None:
        """Undo what put tensors on the meta device, or sizes where there were none; other changes stay."""
        for place in self._places:
            place()

    def _look_into(self, value: Any, depth: int) -> None:
        """Note a cache, or what a value refers to, to be looked into later."""
        match value:
            case torch.Tensor() | nn.Module():
                return
            case functools._lru_cache_wrapper():
                self._places.append(_lru_place(value))
                self._later([value.__wrapped__], depth)
            case types.FunctionType():
                self._look_into_function(value, depth)
            case type():
                self._look_into_class(value, depth)
            case staticmethod() | classmethod() | types.MethodType():
                self._later([value.__func__], depth)
            case property():
                self._later([value.fget], depth)
            case functools.partial():
                self._later([value.func, *value.args, *value.keywords.values()], depth)
            case dict() | list():
                self._look_into_container(value, depth)
            case types.GeneratorType() if value.gi_frame is not None:
                self._later(value.gi_frame.f_locals.values(), depth + 1)
            case contextvars.ContextVar():
                self._later([value.get(None)], depth + 1)
            case tuple():
                self._later(value, depth + 1)
            case threading.local():  # its attributes stand with the thread
                self._later([value.__dict__, type(value)], depth + 1)
            case _ if not _is_foreign(type(value)) or isinstance(value, _HOLDERS):
                self._look_into_object(value, depth)

    def _look_into_object(self, value: Any, depth: int) -> None:
        slots = [one for one in _slots(type(value)) if isinstance(one, types.MemberDescriptorType)]
        if slots:
            self._places.append(_slots_place(value, slots))
            self._later([one.__get__(value) for one in slots if _is_filled(value, one)], depth + 1)
        self._later([getattr(value, "__dict__", None), type(value)], depth + 1)

    def _note_torch_classes(self, kind: type) -> None:
        """Record attributes of torch's own classes, since the code of models may set some; their methods set none."""
        for cls in kind.__mro__[:-1]:
            if _is_foreign(cls) and id(cls) not in self._seen:
                self._seen[id(cls)] = cls
                self._places.append(_class_place(cls))
                self._later([one for one in vars(cls).values() if type(one) in (dict, list)], 0)

    def _note_torch_module(self, module: types.ModuleType, names: frozenset[str]) -> None:
        """The same for Python modules of torch, as far as code names their attributes."""
        self._later([one for name in names if type(one := vars(module).get(name)) in (dict, list)], 0)
        if id(module) not in self._seen:
            self._seen[id(module)] = module
            self._places.append(_mapping_place(vars(module)))
            for one in [one for name in names if isinstance(one := vars(module).get(name), types.ModuleType)]:
                if one.__name__.startswith("torch."):
                    self._note_torch_module(one, names)

    def _later(self, values: Iterable[Any], depth: int) -> None:
        self._waiting += [(value, depth) for value in values if not isinstance(value, _PLAIN)]

    def _look_into_function(self, function: types.FunctionType, depth: int) -> None:
        """Search its defaults, closure and attributes, and the globals that its code names."""
        self._later([*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()], depth)
        self._later([function.__dict__], depth)
        for cell in function.__closure__ or ():
            self._places.append(_cell_place(cell))
            self._later(contents_of(cell), depth)
        if not _is_foreign(function):
            names = frozenset(_names(function.__code__))
            for name in names - self._named:
                self._waiting += self._members.pop(name, [])
            self._named |= names
            self._look_into_namespace(function.__globals__, names, depth)

    def _look_into_namespace(self, namespace: dict[str, Any], names: frozenset[str], depth: int) -> None:
        """Search the globals of these names; through a Python module also its globals, as in `tables.CACHE`."""
        values = {name: namespace.get(name) for name in names}
        code = (types.ModuleType, types.BuiltinFunctionType, types.FunctionType, type)
        self._places.append(_names_place(namespace, [n for n, value in values.items() if not isinstance(value, code)]))
        for name, value in values.items():
            if not isinstance(value, types.ModuleType):
                self._later([value], depth)
            elif not _is_foreign_name(value.__name__) and depth < _DEEPEST:
                self._look_into_namespace(vars(value), names - {name}, depth + 1)
            elif value.__name__.partition(".")[0] == "torch":
                self._note_torch_module(value, names)

    def _look_into_class(self, kind: type, depth: int) -> None:
        for cls in kind.__mro__:
            if not _is_foreign(cls) and (cls is kind or id(cls) not in self._seen):
                self._seen[id(cls)] = cls
                self._places.append(_class_place(cls))
                for name, member in vars(cls).items():
                    self._look_into_member(cls, name, member, depth)

    def _look_into_member(self, cls: type, name: str, member: Any, depth: int) -> None:
        """Search a class attribute; a method only once other code names it, since a model runs little of a library."""
        if (
            not isinstance(member, _METHODS)
            or name in self._named
            or name == "forward"
            or (name[:2] == "__" and not (name == "__init__" and issubclass(cls, nn.Module)))
        ):
            self._later([member], depth)
        else:
            self._members.setdefault(name, []).append((member, depth))

    def _look_into_container(self, value: dict[Any, Any] | list[Any], depth: int) -> None:
        if len(value) <= _LARGEST:
            self._places.append(_mapping_place(value) if isinstance(value, dict) else _list_place(value))
            self._later(value.values() if isinstance(value, dict) else value, depth + 1)


def _is_foreign(value: Any) -> bool:
    return _is_foreign_name(getattr(value, "__module__", None) or "")


def _is_foreign_name(name: str) -> bool:
    return name.partition(".")[0] in _FOREIGN


def _names(code: types.CodeType) -> Iterator[str]:
    """The global and attribute names in code, and in that of functions inside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _holds_meta(value: Any) -> bool:
    """Whether a value is, or holds, a tensor on the meta device."""
    level, seen = [value], set[int]()
    for _ in range(_DEEPEST + 1):
        if any(isinstance(one, torch.Tensor) and one.is_meta for one in level):
            return True
        within = [one for one in level if not isinstance(one, _CODE)]
        seen |= {id(one) for one in within}
        level = [one for one in gc.get_referents(*within) if id(one) not in seen][:_LARGEST]
    return False


def _gone(changed: Mapping[Any, Any], before: Callable[[Any], Any]) -> list[Any]:
    """The keys to restore: all changed ones if any holds a tensor on the meta device, else those with a first size."""
    if _holds_meta(changed):
        return list(changed)
    return [key for key, now in changed.items() if _is_size(now) and before(key) in (_ABSENT, None)]


def _is_size(value: Any) -> bool:
    """Whether a value may be a size: an integer, or a list or tuple of integers."""
    parts = value if isinstance(value, (tuple, list)) else (value,)
    return bool(parts) and all(type(part) is int for part in parts)


def _lru_place(cached: Any) -> Callable[[], None]:
    """Clears a `functools.lru_cache` that holds a tensor on meta; its counters do not tell whether it was refilled."""

    def put_back() -> None:
        if cached.cache_info().currsize and _holds_meta(cached):
            cached.cache_clear()  # single entries cannot be taken out

    return put_back


def _slots(kind: type) -> Iterator[Any]:
    """The descriptors of a class's `__slots__`, inherited ones included."""
    for cls in kind.__mro__:
        names = vars(cls).get("__slots__", ())
        yield from (vars(cls).get(name) for name in ((names,) if isinstance(names, str) else names))


def _is_filled(value: Any, slot: types.MemberDescriptorType) -> bool:
    try:
        slot.__get__(value)
    except AttributeError:
        return False
    return True


def _place(read: Callable[[], Mapping[Any, Any]], put: Callable[[Any, Any], None]) -> Callable[[], None]:
    """A function that restores entries which belong together, as a size and the table for it do.

    Args:
        read: Returns the current entries by key.
        put: Sets the value of a key, or removes the key where the value is `_ABSENT`.
    """
    before = dict(read())

    def put_back() -> None:
        now = read()
        if _same(now, before):
            return
        entries = [(key, value) for key, value in now.items() if not isinstance(value, types.ModuleType)]
        changed = {key: value for key, value in entries if value is not before.get(key, _ABSENT)}
        for key in _gone(changed, lambda key: before.get(key, _ABSENT)):
            put(key, before.get(key, _ABSENT))

    return put_back


def _slots_place(value: Any, slots: list[types.MemberDescriptorType]) -> Callable[[], None]:
    """All slots of an object."""

    def read() -> dict[int, Any]:
        return {i: slot.__get__(value) if _is_filled(value, slot) else _ABSENT for i, slot in enumerate(slots)}

    def put(i: int, before: Any) -> None:
        if before is _ABSENT:
            slots[i].__delete__(value)
        else:
            slots[i].__set__(value, before)

    return _place(read, put)


def _cell_place(cell: types.CellType) -> Callable[[], None]:
    def put(_: int, before: Any) -> None:
        if before is _ABSENT:
            del cell.cell_contents
        else:
            cell.cell_contents = before

    return _place(lambda: dict(enumerate(contents_of(cell))), put)


def _names_place(namespace: dict[str, Any], names: Iterable[str]) -> Callable[[], None]:
    """The globals of these names in a Python module."""
    kept = tuple(names)
    put = functools.partial(_set_entry, namespace)
    return _place(lambda: {name: namespace.get(name, _ABSENT) for name in kept}, put)


def _mapping_place(mapping: dict[Any, Any]) -> Callable[[], None]:
    return _place(lambda: mapping, functools.partial(_set_entry, mapping))


def _class_place(cls: type) -> Callable[[], None]:
    def put(name: str, before: Any) -> None:
        if before is _ABSENT:
            type.__delattr__(cls, name)
        else:
            type.__setattr__(cls, name, before)

    return _place(lambda: vars(cls), put)


def _same(mapping: Mapping[Any, Any], before: Mapping[Any, Any]) -> bool:
    """Whether nothing changed, as is nearly always the case."""
    return len(mapping) == len(before) and all(map(operator.is_, mapping.values(), before.values()))


def _set_entry(mapping: dict[Any, Any], key: Any, before: Any) -> None:
    if before is not _ABSENT:
        mapping[key] = before
    else:
        mapping.pop(key, None)


def _list_place(values: list[Any]) -> Callable[[], None]:
    before = list(values)

    def put_back() -> None:
        known = {id(value) for value in before}
        others = {index: value for index, value in enumerate(values) if id(value) not in known}
        came = [index for index, value in others.items() if _holds_meta(value) or (not before and _is_size(value))]
        for index in reversed(came):
            values[index : index + 1] = before[index : index + 1]

    return put_back
