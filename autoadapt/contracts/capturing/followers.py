"""Followers: facts about tensors, carried from the inputs of each operation to its results by a table of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import torch

from autoadapt.contracts.capturing.by_tensor import ByTensor

T = TypeVar("T")


@dataclass(frozen=True)
class Made(Generic[T]):
    """A tensor that an operation returned, for a rule."""

    tensor: torch.Tensor
    number: int
    """Its index among the tensors that the operation returned."""
    named: Mapping[str, Any]
    """The arguments of the operation by name; empty for elementwise ones."""
    given: Sequence[torch.Tensor]
    """The tensors among the arguments that depend on the input of the module."""
    of: Callable[[torch.Tensor], T | None]
    """Returns the fact about a tensor; None where there is none."""

    @property
    def told(self) -> list[T | None]:
        """The fact about each given tensor."""
        return [self.of(tensor) for tensor in self.given]


Rule: TypeAlias = Callable[[Made[T]], T | None]


def shared(made: Made[T]) -> T | None:
    """The fact about all given tensors, where they share one."""
    told = {*made.told}
    return told.pop() if len(told) == 1 else None


class Follower(Generic[T]):
    """Follows one kind of fact about tensors.

    Args:
        rules: The rule of each operation, by its name: returns the fact about the result, or None.
        otherwise: The rule of all other operations; it must return None where nothing is known of the given tensors.
    """

    def __init__(self, rules: Mapping[str, Rule[T]], otherwise: Rule[T]) -> None:
        self._rules = rules
        self._otherwise = otherwise
        self._found = ByTensor[T]()

    def of(self, tensor: torch.Tensor) -> T | None:
        """The fact about a tensor; None where there is none."""
        return self._found.get(tensor)

    def note(
        self, name: str, named: Mapping[str, Any], given: Sequence[torch.Tensor], made: Sequence[torch.Tensor]
    ) -> None:
        """Apply a rule to the tensors that an operation returned; the arguments are those of `Made`."""
        rule = self._rules.get(name)
        if rule is None and not self._found:
            return
        for number, tensor in enumerate(made):
            self._found.put(tensor, (rule or self._otherwise)(Made(tensor, number, named, given, self.of)))
