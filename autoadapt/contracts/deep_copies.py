"""Deep copies of modules, as `copy.deepcopy` makes them, in a fifth of the time."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from typing import Any

from torch import nn

from autoadapt.contracts.instances import parts_of

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type})
"""Types whose objects `copy.deepcopy` returns unchanged."""


def deep_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy.

    `copy.deepcopy` spends its time on attributes that are numbers, texts and empty dicts of hooks; here those are
    passed on or made at once. Classes that define how they are copied are left to `copy.deepcopy`.

    Args:
        module: The original.
        memo: As for `copy.deepcopy`, with the copy of each parameter and buffer.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.ReLU(), nn.Identity())
        >>> copied = deep_copy(model, {})
        >>> copied, copied[0] is model[0]
        (Sequential(
          (0): ReLU()
          (1): Identity()
        ), False)
    """
    parts = [part for part in parts_of(module) if id(part) not in memo and _is_plain(part)]
    shells = [type(part).__new__(type(part)) for part in parts]
    memo |= {id(part): shell for part, shell in zip(parts, shells, strict=True)}
    for part, shell in zip(reversed(parts), reversed(shells), strict=True):  # children before their parents
        state = vars(shell)
        for name, value in vars(part).items():
            kind = type(value)
            if kind in _ATOMS:
                state[name] = value
            elif kind is OrderedDict and not value:  # for hooks: a dozen in each module
                state[name] = memo.setdefault(id(value), OrderedDict())
            else:
                state[name] = _copied(value, memo)
        state.pop("_compiled_call_impl", None)
    copied: nn.Module = copy.deepcopy(module, memo)
    return copied


def _is_plain(part: nn.Module) -> bool:
    """Whether a deep copy is an object of the class with copied attributes, as by default."""
    kind: Any = type(part)
    return _is_plain_class(kind) and getattr(part, "__deepcopy__", None) is None


@functools.cache
def _is_plain_class(kind: Any) -> bool:
    special = [cls for cls in kind.__mro__ if cls is not object and not vars(cls).keys().isdisjoint(_COPY_METHODS)]
    return all(cls.__module__.startswith("torch.nn.modules.") for cls in special)


_COPY_METHODS = frozenset(
    {"__new__", "__getnewargs__", "__getnewargs_ex__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__"}
    | {"__slots__", "__getattribute__"}
)
"""What a class may define so that it is copied in another way. PyTorch's own layers do, but only to load old files."""


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """As `copy.deepcopy`, with a fast path for atoms and plain containers of them."""
    kind = type(value)
    if kind is tuple and all(type(one) in _ATOMS for one in value):
        return value
    if (known := memo.get(id(value))) is not None:
        return known
    if kind is dict:
        copied = memo[id(value)] = {}
        for key, one in value.items():
            name = key if type(key) in _ATOMS else _copied(key, memo)
            copied[name] = one if type(one) in _ATOMS else _copied(one, memo)
        return copied
    if kind is set and all(type(one) is str for one in value):
        return memo.setdefault(id(value), set(value))
    return copy.deepcopy(value, memo)
