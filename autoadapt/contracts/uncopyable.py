"""Uncopyable attributes: those of a module that `copy.deepcopy` cannot copy, which its copies share instead."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn


def stand_ins(module: nn.Module, memo: Mapping[int, Any], held: Iterable[Any] = ()) -> dict[int, Any]:
    """Entries for the memo of `copy.deepcopy`: the objects that a copy shares with a module.

    These are locks, open files, generators, Python modules and the like, wherever they stand inside an attribute.
    Everything around them is copied, and nothing that holds a tensor is shared. A `torch.Generator` gets a copy in the
    same state.

    Args:
        module: The original; it is only read.
        memo: The copies of its tensors, by `id` of the original.
        held: Further objects that will be copied with it.
    """
    found: dict[int, Any] = {}
    for value in (*(value for _, value in _attributes(module)), *held):
        _look(value, memo, found, set())
    return found


def first_uncopyable(module: nn.Module, memo: Mapping[int, Any]) -> str:
    """The path of the first attribute that cannot be copied, or else of the innermost module that cannot."""
    for path, value in _attributes(module):
        if not _can_be_copied(value, memo):
            return path
    inner = reversed([*module.named_modules()])
    return next((path for path, one in inner if path and not _can_be_copied(one, memo)), type(module).__name__)


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Path and value of each attribute of each submodule, but for registered parameters, buffers and modules."""
    for path, inner in module.named_modules():
        for name, value in vars(inner).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield f"{path}.{name}".lstrip("."), value


def _look(value: Any, memo: Mapping[int, Any], found: dict[int, Any], seen: set[int]) -> None:
    """Note the innermost objects in a value that cannot be copied."""
    if id(value) in seen or isinstance(value, (torch.Tensor, nn.Module)):
        return
    seen.add(id(value))
    if _can_be_copied(value, {**memo, **found}):
        return
    if isinstance(value, torch.Generator):
        found[id(value)] = value.clone_state()
        return
    try:
        parts = _parts(value)
    except Exception:  # it says that it cannot be taken apart
        found[id(value)] = value
        return
    for part in parts:
        _look(part, memo, found, seen)


def _parts(value: Any) -> list[Any]:
    """The objects inside of a value that `copy.deepcopy` would copy.

    Raises:
        TypeError: It cannot be reduced, as a lock.
    """
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    reduced = value.__reduce_ex__(4)
    return [*reduced[1:3]] if isinstance(reduced, tuple) else []


def _can_be_copied(value: Any, memo: Mapping[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:  # a __deepcopy__ may raise anything
        return False
    return True
