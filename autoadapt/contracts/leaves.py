"""Leaves: reading one tensor out of an output, keeping those of a running call, and the placeholder for one left out.

Standalone source inlines this file, so it imports only the standard library.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NoReturn

__all__ = [
    "READ",
    "LeftOut",
    "RunningCalls",
    "cloned",
    "leaf",
    "place_of_tap",
    "unless_off",
]

# Functions stay below 88 columns: they are inlined into files that other people format.


READ = "inputs.0"
"""The path of a tap that takes the first argument of a module instead of a leaf of its output."""


def place_of_tap(module: str, path: str) -> str:
    """The key of a tap in `RunningCalls.taken`: the module, with `:inputs.0` for its input.

    Example:
        >>> place_of_tap("layers.1", "0"), place_of_tap("layers.1", "inputs.0")
        ('layers.1', 'layers.1:inputs.0')
    """
    return f"{module}:{READ}" if path == READ else module


def leaf(value: Any, path: str) -> Any:
    """The tensor at a path within an output, `levels.0`; `output` is the output itself."""
    if path == "output":
        return value
    for key in path.split("."):
        value = _item(value, key)
    return value


def unless_off(name: str, asked: Any) -> Any:
    """The placeholder of an output that was left out; None where nobody asks for it."""
    return None if asked is False else LeftOut(name)


def cloned(value: Any) -> Any:
    """A copy of lists, tuples and dicts in which each tensor is cloned."""
    if isinstance(value, dict):
        return {key: cloned(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(cloned, value))
    return value.clone() if hasattr(value, "clone") else value


class RunningCalls(threading.local):
    """What the taps of each running forward call took so far, the innermost call last.

    Each thread has a list of its own; copies and unpickled objects start empty.
    """

    def __init__(self) -> None:
        self.taken: list[dict[str, list[Any]]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


def _item(value: Any, key: str) -> Any:
    """The item at an index or a key, text or integer, or the attribute of that name."""
    if isinstance(value, (list, tuple)) and key.isdigit():
        return value[int(key)]
    if isinstance(value, Mapping):
        return value[key] if key in value else value[int(key)]
    return getattr(value, key)


class LeftOutError(TypeError, AttributeError):
    """An output was read that was left out; `hasattr` of one is false, as it has to be."""


class LeftOut:
    """Stands in the place of an output that was left out, and raises when somebody reads it."""

    def __init__(self, name: str) -> None:
        self.left_out = name

    def __repr__(self) -> str:
        return f"<{self.left_out} was left out: nothing read it>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LeftOut) and other.left_out == self.left_out

    def __hash__(self) -> int:
        return hash(self.left_out)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") or name == "left_out":
            raise AttributeError(name)
        self._refuse()

    def __getitem__(self, index: object) -> NoReturn:
        self._refuse()

    @classmethod
    def __torch_function__(
        cls,
        func: object,
        types: object,
        args: object = (),
        kwargs: object = None,
    ) -> NoReturn:
        values = [
            *(args if isinstance(args, (list, tuple)) else ()),
            *(kwargs.values() if isinstance(kwargs, dict) else ()),
        ]
        for value in values:
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(item, cls):
                    item._refuse()
        raise AssertionError("torch calls this only with an argument of this class")

    def _refuse(self) -> NoReturn:
        raise LeftOutError(
            f"the output {self.left_out} was left out because nothing read it when the"
            f" module was swapped in; name it in swap(..., outputs=[...])"
        )
