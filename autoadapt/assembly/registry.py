"""The registry: parts by name. One decorator is all that a new part needs."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import nn

from autoadapt.assembly.configs import Group
from autoadapt.errors import AssemblyError, Mismatch, nearest

Takes: TypeAlias = Literal["one", "tuple", "list", "dict", "any"]
"""What a part is given: one tensor, several levels in a container, or whatever stands before it."""

_GROUPS: tuple[Group, ...] = typing.get_args(Group)

Made = TypeVar("Made", bound=Callable[..., Any])


@dataclass(frozen=True)
class Part:
    """Something that makes a module, and what that module takes.

    Args:
        name: Its name, with its scope.
        make: A class or a function that returns a module.
        takes: What each required argument of its `forward` is.
        is_open: Whether its arguments cannot be checked before it is called.
        channels_option: The argument for the channels of an image that is not of three.
        nested: What becomes of an argument that is a config itself.
    """

    name: str
    make: Callable[..., nn.Module]
    takes: tuple[Takes, ...] = ("any",)
    is_open: bool = False
    channels_option: str = ""
    nested: Callable[[Any], Any] = field(default=lambda value: value, compare=False)

    def prepared(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments as its constructor expects them."""
        return {name: self.nested(value) for name, value in arguments.items()}

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of its constructor, with annotations as types where these can be read."""
        return _parameters(self.make)


class Registry:
    """Parts by group and name."""

    def __init__(self, parts: Mapping[tuple[Group, str], Part] | None = None) -> None:
        self._parts = dict(parts or {})

    def register(self, group: Group, name: str = "", *, replace: bool = False) -> Callable[[Made], Made]:
        """Make a class, or a function that returns a module, known to configs.

        What the part is given follows from the annotation of the first parameter of its `forward`: `torch.Tensor` is
        one level, the coarsest unless the config says `from`; `list`, `tuple`, `Sequence` or `dict` are all levels.
        Without an annotation it is what stands before it, as it is.

        Args:
            group: `preprocessor`, `backbone`, `neck`, `head` or `loss`.
            name: What configs call it; the name of the class or function where left out.
            replace: Whether it may take the place of another part of that name.

        Raises:
            AssemblyError: The group is unknown, or the name is taken by another part.

        Example:
            >>> @Registry().register("neck")
            ... class Largest(nn.Module):
            ...     def forward(self, x: torch.Tensor) -> torch.Tensor:
            ...         return x.amax((2, 3))
        """
        if group not in _GROUPS:
            fault = Mismatch("group", ", ".join(_GROUPS), repr(group), (nearest(str(group), _GROUPS) or ["head"])[0])
            raise AssemblyError("unknown group of parts", [fault])

        def add(make: Made) -> Made:
            called = name or make.__name__
            known = self._parts.get((group, called))
            if known is not None and not replace and not _same(known.make, make):
                where = f"{known.make.__module__}.{known.make.__qualname__}"
                remedy = f'@register("{group}", name="{called}2") or @register("{group}", replace=True)'
                raise AssemblyError(
                    f"there is a {group} named {called} already", [Mismatch(called, "a new name", where, remedy)]
                )
            self._parts[group, called] = Part(called, make, takes_of(make))
            return make

        return add

    def get(self, group: Group, name: str) -> Part | None:
        """The part of that name, if there is one."""
        return self._parts.get((group, name))

    def names(self, group: Group) -> list[str]:
        """The names of a group."""
        return sorted(name for known, name in self._parts if known == group)

    def groups_of(self, name: str) -> list[Group]:
        """The groups that have a part of a name."""
        return [group for group, known in self._parts if known == name]

    def copy(self) -> Registry:
        """A registry of its own with the same parts."""
        return Registry(self._parts)


def _same(left: Callable[..., Any], right: Callable[..., Any]) -> bool:
    """Whether a definition is registered once more, as when a notebook's cell runs again."""
    return (left.__module__, left.__qualname__) == (right.__module__, right.__qualname__)


PARTS = Registry()
"""The parts that configs can name without a scope."""

register = PARTS.register


def takes_of(make: Callable[..., Any]) -> tuple[Takes, ...]:
    """What the required parameters of `forward` are: of a class, or of the class that a function says it returns."""
    made = make if isinstance(make, type) else typing.cast(Any, _hints(make).get("return"))
    if not isinstance(made, type) or made is nn.Module or not issubclass(made, nn.Module):
        return ("any",)
    hints = _hints(made.forward)
    try:
        given = list(inspect.signature(made.forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return ("any",)
    required = [p for p in given if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return tuple(_takes(hints.get(parameter.name)) for parameter in required or given[:1]) or ("any",)


def _takes(hint: Any) -> Takes:
    if isinstance(hint, type) and issubclass(hint, torch.Tensor):
        return "one"
    origin = typing.get_origin(hint) or hint
    if origin in (typing.Union, types.UnionType) or not isinstance(origin, type):
        return "any"
    if issubclass(origin, Mapping) or origin is dict:
        return "dict"
    if issubclass(origin, tuple):
        return "tuple"
    return "list" if issubclass(origin, (list, Sequence)) and origin is not str else "any"


def _hints(made: Callable[..., Any]) -> dict[str, Any]:
    """Annotations as types; none where a name in them cannot be resolved."""
    try:
        return typing.get_type_hints(made)
    except Exception:  # annotations may hold anything
        return {}


def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    called: Any = getattr(make, "__init__") if isinstance(make, type) else make  # noqa: B009  (mypy forbids the access)
    hints = _hints(called)
    try:
        found = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return {}
    return {name: parameter.replace(annotation=hints.get(name, Any)) for name, parameter in found.items()}
