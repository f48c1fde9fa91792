"""Containers that note which of their tensors are looked up by key, index or name."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from autoadapt.contracts.trees import NAMED, Constant, Container, Path, Slot, Tree, flatten

Note: TypeAlias = Callable[[Path], None]


def watched(value: Any, note: Note, path: Path = ()) -> Any:
    """The same containers of the same classes, subclassed, so that each look-up of a tensor is noted.

    Handing a container on, iterating over it and slicing it are no look-ups. What is no container of tensors is
    handed back as it is.

    Example:
        >>> import torch
        >>> seen = []
        >>> levels = watched([torch.zeros(1), torch.zeros(2)], seen.append)
        >>> _ = levels[-1], [level for level in levels]
        >>> seen, isinstance(levels, list)
        ([(1,)], True)
    """
    tree, tensors = flatten(value)
    if not isinstance(tree, Container) or not tensors or not _is_plain(tree):
        return value
    return _watched(value, tree, note, path)


def _is_plain(tree: Tree) -> bool:
    match tree:
        case Container(kind=kind, children=children):
            return kind != "mapping" and all(map(_is_plain, children))
        case _:
            return isinstance(tree, (Slot, Constant))


def _watched(value: Any, tree: Tree, note: Note, path: Path) -> Any:
    if not isinstance(tree, Container):
        return value
    names = tree.keys
    children = {name: getattr(value, str(name)) if tree.kind in NAMED else value[name] for name in names}
    made = {
        name: _watched(child, inner, note, (*path, name))
        for (name, child), inner in zip(children.items(), tree.children, strict=True)
    }
    leaves = {name for name, inner in zip(names, tree.children, strict=True) if isinstance(inner, Slot)}

    def noted(name: Any) -> None:
        if name in leaves:
            note((*path, name))

    return _rebuilt(value, tree, made, noted, leaves)


def _rebuilt(value: Any, tree: Container, made: dict[Any, Any], noted: Callable[[Any], None], leaves: set[Any]) -> Any:
    cls = type(value)
    match tree.kind:
        case "list":
            found: Any = _subclass(cls, _numbered(list, noted))(made.values())
        case "tuple":
            found = _subclass(cls, _numbered(tuple, noted))(made.values())
        case "named_tuple":
            names = tuple(tree.keys)
            found = _subclass(cls, _numbered(tuple, noted, names) | _named(cls, noted, names))._make(made.values())
        case "dict" | "ordered_dict":
            found = _subclass(cls, _keyed(dict, noted, leaves))(made)
        case "dataclass":
            found = copy.copy(value)
            found.__dict__.update(made)
            found.__class__ = _subclass(cls, _named(cls, noted, tuple(tree.keys)))
        case _:  # model_output, whose items are attributes as well
            found = copy.copy(value)
            for name, child in made.items():
                found[name] = child
            names = tuple(tree.keys)
            found.__class__ = _subclass(cls, _named(cls, noted, names) | _returned(noted, names))
    return found


def _subclass(cls: type, methods: dict[str, Any]) -> Any:
    """A subclass that calls itself by the name of its parent."""
    own = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls)(cls.__name__, (cls,), own | methods)


def _numbered(cls: Any, noted: Callable[[Any], None], names: tuple[Any, ...] = ()) -> dict[str, Any]:
    def getitem(self: Any, index: Any) -> Any:
        if isinstance(index, int):
            number = index + len(self) if index < 0 else index
            noted(names[number] if names and number < len(names) else number)
        return cls.__getitem__(self, index)

    return {"__getitem__": getitem}


def _keyed(cls: Any, noted: Callable[[Any], None], leaves: set[Any]) -> dict[str, Any]:
    def getitem(self: Any, key: Any) -> Any:
        noted(key)
        return cls.__getitem__(self, key)

    def get(self: Any, key: Any, default: Any = None) -> Any:
        noted(key)
        return cls.get(self, key, default)

    def pop(self: Any, key: Any, *default: Any) -> Any:
        noted(key)
        return OrderedDict.pop(self, key, *default) if isinstance(self, OrderedDict) else cls.pop(self, key, *default)

    def setitem(self: Any, key: Any, value: Any) -> None:
        if cls.get(self, key) is not value:
            leaves.discard(key)  # from here on it is the consumer's own
        (OrderedDict if isinstance(self, OrderedDict) else cls).__setitem__(self, key, value)

    def initialise(self: Any, items: Any) -> None:
        for key, value in items.items():
            (OrderedDict if isinstance(self, OrderedDict) else cls).__setitem__(self, key, value)

    def values(self: Any) -> list[Any]:
        return [cls.__getitem__(self, key) for key in self]

    def items(self: Any) -> list[tuple[Any, Any]]:
        return [(key, cls.__getitem__(self, key)) for key in self]

    own = {"get": get, "pop": pop, "values": values, "items": items}
    return own | {"__getitem__": getitem, "__setitem__": setitem, "__init__": initialise}


def _named(cls: Any, noted: Callable[[Any], None], names: tuple[Any, ...]) -> dict[str, Any]:
    def getattribute(self: Any, name: str) -> Any:
        if name in names:
            noted(name)
        return cls.__getattribute__(self, name)

    return {"__getattribute__": getattribute}


def _returned(noted: Callable[[Any], None], names: tuple[Any, ...]) -> dict[str, Any]:
    """Look-ups of a transformers output, by number or by name; making a tuple of it is none."""

    def values(self: Any) -> tuple[Any, ...]:
        return tuple(OrderedDict.__getitem__(self, name) for name in OrderedDict.keys(self))

    def getitem(self: Any, key: Any) -> Any:
        if isinstance(key, str):
            noted(key)
            return OrderedDict.__getitem__(self, key)
        if isinstance(key, int):
            noted(names[key])
        return values(self)[key]

    def items(self: Any) -> Iterator[tuple[str, Any]]:
        return iter([(name, OrderedDict.__getitem__(self, name)) for name in OrderedDict.keys(self)])

    return {"__getitem__": getitem, "to_tuple": values, "values": lambda self: list(values(self)), "items": items}


def plain_tree(tree: Tree) -> Tree:
    """The tree of a value as it would be with nothing watched."""
    if not isinstance(tree, Container):
        return tree
    plain = {
        "builtins:dict": "dict",
        "builtins:list": "list",
        "builtins:tuple": "tuple",
        "collections:OrderedDict": "ordered_dict",
    }
    kind, name = (plain[tree.type], "") if tree.type in plain else (tree.kind, tree.type)
    return Container(kind=kind, type=name, keys=tree.keys, children=tuple(map(plain_tree, tree.children)))  # type: ignore[arg-type]
