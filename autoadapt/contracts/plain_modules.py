"""Plain modules: modules in a model's plain lists, tuples, dicts and sets, where PyTorch does not register them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from autoadapt.contracts.instances import paths_above


@dataclass(frozen=True)
class PlainModule:
    """A module that stands in a plain attribute of another."""

    owner: str
    """Path of the module that keeps it."""
    attribute: str
    place: str
    """Where in the attribute: `stages[0]`."""
    module: nn.Module

    @property
    def path(self) -> str:
        """The path of the module, with its place in the attribute: `encoder.stages[0]`."""
        return f"{self.owner}.{self.place}".lstrip(".")

    @property
    def registered(self) -> str:
        """A line of code that registers the modules in the attribute."""
        name = f"model.{self.owner}.{self.attribute}".replace("..", ".")
        kind = "ModuleDict" if "['" in self.place else "ModuleList"
        return f"{name} = {name}" if self.place == self.attribute else f"{name} = torch.nn.{kind}({name})"


def plain_modules(model: nn.Module) -> list[PlainModule]:
    """The modules in plain attributes of a model's submodules, whether they are registered elsewhere or not.

    Example:
        >>> model = nn.Sequential(nn.ReLU())
        >>> model.stages = [model[0], nn.Tanh()]
        >>> [(one.path, one.module) for one in plain_modules(model)]
        [('stages[0]', ReLU()), ('stages[1]', Tanh())]
    """
    return [
        PlainModule(owner, name, f"{name}{place}", module)
        for owner, host in model.named_modules()
        for name, value in _attributes(host).items()
        for place, module in _inside(value, _DEEPEST)
    ]


def kept_parts(model: nn.Module, members: Iterable[nn.Module]) -> list[str]:
    """Plain attributes of a model that hold submodules of some members, and still would once these are replaced."""
    whole = set(members)
    inner = {part for member in whole for part in member.modules()} - whole
    found = (f"{one.owner}.{one.attribute}".lstrip(".") for one in plain_modules(model) if one.module in inner)
    return list(dict.fromkeys(found))


def registering(model: nn.Module, path: str) -> str:
    """The code that registers the module at a path through a plain attribute; empty for any other path."""
    marked = path.replace("[", ".[")
    wanted = [*paths_above(marked), marked]
    found = (one for one in plain_modules(model) if f"{one.owner}.{one.attribute}".lstrip(".") in wanted)
    return next((one.registered for one in found), "")


def replace_plain(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> Callable[[], None]:
    """Replace modules in the plain attributes of a model.

    Lists, dicts and sets are changed in place, since functions may hold them too.

    Returns:
        A function that undoes it.
    """
    undo: list[Callable[[], object]] = []
    for host in list(model.modules()):
        for name, value in _attributes(host).items():
            if any(module in new for _, module in _inside(value, _DEEPEST)):
                vars(host)[name] = _replaced(value, new, undo)
                undo.append(functools.partial(vars(host).__setitem__, name, value))

    def take_back() -> None:
        for one in reversed(undo):
            one()

    return take_back


_DEEPEST = 4
"""Levels of nested containers that are searched."""
_LARGEST = 10_000
"""Containers of more entries are data, and not searched."""
_OWN = frozenset(vars(nn.Module()))
"""Attributes of every module: its registered submodules and tensors, and its hooks."""


def _attributes(host: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(host).items() if name not in _OWN}


def _inside(value: Any, depth: int) -> Iterator[tuple[str, nn.Module]]:
    """The modules in a container, and where."""
    if isinstance(value, nn.Module):
        yield "", value
    elif isinstance(value, (dict, list, tuple, set)) and depth and len(value) <= _LARGEST:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in pairs:
            yield from ((f"[{key!r}]{place}", module) for place, module in _inside(one, depth - 1))


def _replaced(value: Any, new: Mapping[nn.Module, nn.Module], undo: list[Callable[[], object]]) -> Any:
    """The same container with other modules in it; a tuple is made anew."""
    if isinstance(value, nn.Module):
        return new.get(value, value)
    match value:
        case dict():
            undo.append(functools.partial(value.update, dict(value)))
            value.update({key: _replaced(one, new, undo) for key, one in value.items()})
        case list():
            undo.append(functools.partial(value.__setitem__, slice(None), list(value)))
            value[:] = [_replaced(one, new, undo) for one in value]
        case set():
            undo += [functools.partial(value.update, set(value)), value.clear]
            made = {_replaced(one, new, undo) for one in value}
            value.clear()
            value.update(made)
        case tuple():
            made_anew = [_replaced(one, new, undo) for one in value]
            return type(value)(*made_anew) if hasattr(value, "_fields") else type(value)(made_anew)
    return value
