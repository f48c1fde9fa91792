"""Closures: functions on a module that hold submodules or tensors of it, as hooks and a patched `forward` do.

`copy.deepcopy` does not copy functions, so that those of a copied module would run, and write to, the original.
"""

from __future__ import annotations

import copy
import functools
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.instances import contents_of, parts_of

_PLAIN = (str, bytes, int, float, type(None), type, types.ModuleType, types.BuiltinFunctionType, types.CodeType)
_NUMBERS = frozenset({bool, int, float, str, type(None)})
_EMPTY = frozenset({dict, OrderedDict, list, set})
_CONTAINERS = (dict, list, set, deque)
_WITHOUT = frozenset({MadeByHand, fx.Graph})
"""Plans and other facts hold no functions, and graphs none that are replaced; each holds hundreds of objects."""
_KEPT_APART = ("_parameters", "_buffers", "_modules")
_LARGEST = 10_000
"""Containers of more entries are data, and hold no part of a module."""
_DEEPEST = 8
"""Levels of nested functions, containers and objects that are searched."""
_FOREIGN = frozenset({"torch", "numpy", *sys.stdlib_module_names}) - {"__main__"}


class Closures:
    """Copies of the functions on a module that hold its submodules, its tensors, or objects in its attributes.

    An object that two of them share, as a list that a hook fills and `forward` reads, is copied once for both. A
    function that only holds objects from outside of the module, as a list of the caller's, is not copied.

    Args:
        module: The original; it is only read.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        found = _reached(_attributes(module), past_functions=False)
        functions = [value for value in found.values() if isinstance(value, types.FunctionType) and [*_held(value)]]
        self._own: set[int] = set()
        self._made: dict[int, tuple[types.FunctionType, types.FunctionType]] = {}
        self._cells: dict[int, tuple[types.CellType, types.CellType]] = {}
        if functions:
            self._own = {id(value) for value in (*module.parameters(), *module.buffers(), *found.values())}
            for part in module.modules():
                self._own |= {id(part), *(id(value) for value in vars(part).values() if not isinstance(value, _PLAIN))}
            self._own -= {id(value) for value in found.values() if isinstance(value, types.FunctionType)}
            self._make(functions)

    @property
    def memo(self) -> dict[int, Any]:
        """Entries for the memo of `copy.deepcopy`: the new functions, which `fill` completes."""
        return {number: made for number, (_, made) in self._made.items()}

    @property
    def held(self) -> list[Any]:
        """The objects that the functions hold and that will be copied."""
        return [value for function, _ in self._made.values() for value in _held(function) if self._is_own(value)]

    def fill(self, copied: nn.Module, memo: dict[int, Any]) -> None:
        """Give the new functions their copied closures, defaults and attributes, and put them on the copied module.

        Args:
            copied: The copied module.
            memo: The memo with which `copy.deepcopy` made it.

        Raises:
            Exception: Whatever `copy.deepcopy` raises for an object that they hold.
        """
        for cell, new_cell in self._cells.values():
            for value in contents_of(cell):
                new_cell.cell_contents = self._renewed(value, memo)
        for function, made in self._made.values():
            made.__defaults__ = function.__defaults__ and tuple(self._renewed(v, memo) for v in function.__defaults__)
            keywords = function.__kwdefaults__
            made.__kwdefaults__ = keywords and {name: self._renewed(v, memo) for name, v in keywords.items()}
            vars(made).update({name: self._renewed(value, memo) for name, value in vars(function).items()})
        places = dict(copied.named_modules()) if self._made else {}
        for path, part in self._module.named_modules() if self._made else ():
            if path in places:
                self._put(vars(part), places[path], memo)

    def _put(self, attributes: Mapping[str, Any], copied: nn.Module, memo: dict[int, Any]) -> None:
        """Replace functions, and methods bound from them, among the attributes and hooks of a submodule."""
        for name, value in attributes.items():
            if self._is_made(value):
                copied.__dict__[name] = self._renewed(value, memo)
            elif isinstance(value, dict) and name not in _KEPT_APART and isinstance(vars(copied).get(name), dict):
                vars(copied)[name].update(
                    {key: self._renewed(one, memo) for key, one in value.items() if self._is_made(one)}
                )

    def _is_made(self, value: Any) -> bool:
        return id(getattr(value, "__func__", value)) in self._made

    def _renewed(self, value: Any, memo: dict[int, Any]) -> Any:
        if id(value) in self._made:
            return self._made[id(value)][1]
        if isinstance(value, types.MethodType) and self._is_made(value):
            return types.MethodType(self._made[id(value.__func__)][1], copy.deepcopy(value.__self__, memo))
        return copy.deepcopy(value, memo) if self._is_own(value) else value

    def _make(self, functions: list[types.FunctionType]) -> None:
        """Make those that hold something of the module's own; other mutable objects that they hold become its own."""
        reached = {id(one): _reached([one]) for one in functions}
        waiting = {
            id(one): one for found in reached.values() for one in found.values() if isinstance(one, types.FunctionType)
        }
        reached |= {number: _reached([one]) for number, one in waiting.items() if number not in reached}
        while holding := [number for number in waiting if not self._own.isdisjoint(reached[number])]:
            for number in holding:
                function = waiting.pop(number)
                self._made[number] = function, self._empty(function)
                self._own |= {key for key, value in reached[number].items() if _is_copied(value)}

    def _empty(self, function: types.FunctionType) -> types.FunctionType:
        """A copy of the function with empty cells; functions that share a cell get copies that share one, too."""
        cells = function.__closure__ or ()
        new_cells = tuple(self._cells.setdefault(id(cell), (cell, types.CellType()))[1] for cell in cells)
        code, name = function.__code__, function.__name__
        made = types.FunctionType(code, function.__globals__, name, None, new_cells or None)
        made.__qualname__, made.__module__, made.__doc__ = function.__qualname__, function.__module__, function.__doc__
        return made

    def _is_own(self, value: Any) -> bool:
        """Whether a value that a function holds is copied with it."""
        return isinstance(value, torch.Tensor) or not self._own.isdisjoint(_reached([value]))


def _attributes(module: nn.Module) -> Iterator[Any]:
    """The attributes of all submodules that may hold a function: no numbers, texts, facts or empty containers."""
    for part in parts_of(module):
        for name, value in vars(part).items():
            kind = type(value)
            if kind in _NUMBERS or (kind in _EMPTY and not value) or name in _KEPT_APART:
                continue
            if not _WITHOUT.isdisjoint(kind.__mro__):
                continue
            if kind is not tuple or not all(type(one) in _NUMBERS for one in value):
                yield value


def _reached(values: Iterable[Any], *, past_functions: bool = True) -> dict[int, Any]:
    """All objects that values hold, by `id`, themselves included; of a module only its submodules."""
    found: dict[int, Any] = {}
    level = list(values)
    for _ in range(_DEEPEST):
        new = {id(one): one for one in level if not isinstance(one, _PLAIN) and id(one) not in found}
        found |= new
        level = [
            inner
            for one in new.values()
            if past_functions or not isinstance(one, types.FunctionType)
            for inner in _within(one)
        ]
    return found


def _within(value: Any) -> Iterable[Any]:
    """The objects that a value holds directly."""
    match value:
        case torch.Tensor():
            return ()
        case nn.Module():
            return value.modules()
        case types.FunctionType():
            return *(value.__closure__ or ()), *_held(value)
        case types.CellType():
            return contents_of(value)
        case types.MethodType():
            return value.__self__, value.__func__
        case functools.partial():
            return value.func, *value.args, *value.keywords.values()
        case Mapping():
            return list(value.values()) if len(value) <= _LARGEST else ()
        case list() | tuple() | set() | frozenset() | deque():
            return list(value) if len(value) <= _LARGEST else ()
    attributes = getattr(value, "__dict__", None)
    return list(attributes.values()) if isinstance(attributes, dict) else ()


def _held(function: types.FunctionType) -> Iterator[Any]:
    """The objects in a function's closure, default arguments and attributes."""
    for cell in function.__closure__ or ():
        yield from contents_of(cell)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()


def _is_copied(value: Any) -> bool:
    """Whether an object is mutable, so that functions which share it must share its copy."""
    if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        return False
    return isinstance(value, (*_CONTAINERS, types.CellType, torch.Tensor, nn.Module)) or (
        hasattr(value, "__dict__") and type(value).__module__.partition(".")[0] not in _FOREIGN
    )
