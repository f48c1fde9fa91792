"""Settings of modules: their plain attributes, and those of the configs that they hold."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

_OWN = {*vars(nn.Module()), "autoadapt_call", "inplace"}  # modes and calls are noted elsewhere
LONGEST = 200
"""Characters of a value, and entries of a config; longer ones, as of tables, are not noted."""
HARMLESS = r"[\w .+-]*"
"""Texts that are neither code nor a path, which another machine may have elsewhere."""
_DEEPEST = 3
"""Configs within configs that are read."""
_NO_CONFIGS = (nn.Module, torch.Tensor, type, types.ModuleType, types.FunctionType)


class Setting(NamedTuple):
    """A setting of a module that differs from the one that was saved."""

    path: str
    name: str
    saved: str
    found: str

    @property
    def is_of_training(self) -> bool:
        """Whether it counts in training alone, as it is known of layers of torch and of configs."""
        return self.name == "momentum" or "dropout" in self.name


class Held(NamedTuple):
    """A setting where it stands."""

    holder: Any
    """A module, a config, a dict or a list."""
    key: Any
    value: Any
    text: str

    def put(self, value: Any) -> None:
        """Set another value there."""
        entries = self.holder if isinstance(self.holder, (dict, list)) else vars(self.holder)
        entries[self.key] = list(value) if isinstance(self.value, list) else value


def held_by(module: nn.Module, seen: set[int] | None = None) -> dict[str, Held]:
    """The settings of one module, by name; `config.eps` is that of a config.

    Numbers, texts but for paths, functions and sequences of these are settings; so are those in dicts and in any object
    that a module holds, but for private ones, and what its class declares in `__constants__`.

    Args:
        module: The module, without those below it.
        seen: Configs that are passed over, by `id`; those that are read are added.
    """
    declared = {name: getattr(module, name, None) for name in getattr(module, "__constants__", ())}
    values = {name: value for name, value in {**declared, **vars(module)}.items() if name not in _OWN}
    return dict(_held(module, values, "", set() if seen is None else seen))


def _held(holder: object, values: Mapping[Any, Any], before: str, seen: set[int]) -> Iterator[tuple[str, Held]]:
    for key, value in values.items():
        if not isinstance(key, (str, int)) or not re.fullmatch(r"\w+", str(key)):
            continue  # with a dot in it, it could be another place
        name = f"{before}{key}"
        if text := _text(value):
            if len(text) <= LONGEST:
                yield name, Held(holder, key, value, text)
        elif name.count(".") < _DEEPEST and id(value) not in seen and (inside := _contents(value)):
            seen.add(id(value))
            yield from _held(value, inside, f"{name}.", seen)


def _contents(value: object) -> dict[Any, Any]:
    """What a config holds, by name; nothing of what is none, or as long as a table."""
    if isinstance(value, _NO_CONFIGS):
        return {}
    named = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else None
    found = getattr(value, "__dict__", {}) if named is None else named
    public = {key: one for key, one in found.items() if not str(key).startswith("_")}
    return public if len(public) <= LONGEST else {}


def _text(value: object) -> str:
    """A value, equal for equal ones; empty where it is not plain."""
    match value:
        case bool() | None:
            return repr(value)
        case int():
            return repr(int(value))
        case float():
            return repr(int(value) if value.is_integer() else float(value))
        case str():
            return repr(str(value)) if re.fullmatch(HARMLESS, value) else ""
        case tuple() | list():
            texts = [_text(one) for one in value]
            return f"({', '.join(texts)}{',' * (len(texts) == 1)})" if all(texts) else ""
        case functools.partial(func=func, args=args, keywords=named):
            texts = [_text(func), *map(_text, args), *(f"{name}={_text(one)}" for name, one in named.items())]
            return f"partial({', '.join(texts)})" if all(not text.endswith("=") and text for text in texts) else ""
        case types.FunctionType() | types.BuiltinFunctionType():
            return value.__qualname__
    return ""
