"""Plain data: mappings, lists and tuples of a config in which names may share parts, as they do in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_DELETE = "_delete_"
_DEEPEST = 100


class Shared(dict[str, Any]):
    """A mapping that came from another file: mmengine's own kind, which has attributes and is updated in depth.

    It is a mapping in all else, so that a config is one kind of data to whoever reads it.
    """


def shared(value: Any) -> Any:
    """A value as mmengine keeps it in a mapping of its own: what is plain is copied, what is its own stays itself.

    Example:
        >>> type(shared([{"a": 1}])[0]).__name__
        'Shared'
    """
    if type(value) is dict:
        return Shared((key, shared(child)) for key, child in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(map(shared, value))
    return value


def changed(holder: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """What `holder.update(changes)` does: Python's mappings replace their entries, mmengine's update those below too.

    Example:
        >>> plain, ours = {"a": {"b": 1}}, shared({"a": {"b": 1}})
        >>> changed(plain, {"a": {"c": 2}}), changed(ours, {"a": {"c": 2}}), plain, ours
        (None, None, {'a': {'c': 2}}, {'a': {'b': 1, 'c': 2}})
    """
    for key, value in changes.items():
        below = holder.get(key)
        if isinstance(holder, Shared) and isinstance(below, dict) and isinstance(value, dict):
            changed(below, value)
        else:
            holder[key] = shared(value) if isinstance(holder, Shared) else value


def _below(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, (list, tuple)) else []


def size(value: Any, most: int) -> int:
    """How many entries plain data has, with those inside them, each as often as it stands; more than `most` is enough.

    What is nested a hundred deep counts as more.

    Example:
        >>> pair = [1, 2]
        >>> size({"a": pair, "b": pair}, 100), size([pair] * 50, 9)
        (7, 10)
    """
    count, waiting = 0, [(value, 0)]
    while waiting:
        found, depth = waiting.pop()
        count += 1
        if count > most or depth > _DEEPEST:
            return most + 1
        waiting += [(child, depth + 1) for child in _below(found)]
    return count


def holds(value: Any, holder: Any) -> bool:
    """Whether a value is, or has somewhere inside, what it is to be put into."""
    waiting, seen = [value], set()
    while waiting:
        found = waiting.pop()
        if found is holder:
            return True
        if id(found) not in seen:
            seen.add(id(found))
            waiting += _below(found)
    return False


def own(value: Any) -> Any:
    """Data of its own, where names share some."""
    match value:
        case dict():
            return {key: own(child) for key, child in value.items()}
        case list():
            return [own(child) for child in value]
        case tuple():
            return tuple(own(child) for child in value)
    return value


def clashes(
    base: Mapping[str, Any], changes: Mapping[str, Any], keys: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Where a mapping would be merged into what is none, which mmengine refuses."""
    for key, value in changes.items():
        if isinstance(value, dict) and key in base and not value.get(_DELETE):
            if isinstance(base[key], dict):
                yield from clashes(base[key], value, (*keys, key))
            else:
                yield (*keys, key)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merged into those of the base, as mmengine does; what says `_delete_` takes their place."""
    found = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict):
            inherited = {} if value.get(_DELETE) else found.get(key)
            below = inherited if isinstance(inherited, dict) else {}
            value = merged(below, {name: child for name, child in value.items() if name != _DELETE})
        found[key] = value
    return found
