"""Followers: what is known of tensors, carried through what torch runs by a table of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import torch

from autoadapt.contracts.capturing.by_tensor import ByTensor

__all__ = ["Follower", "Made", "Rule"]

T = TypeVar("T")


@dataclass(frozen=True)
class Made(Generic[T]):
    """A tensor that an operation made."""

    tensor: torch.Tensor
    number: int
    """Which of those that it returned."""
    named: Mapping[str, Any]
    """The arguments of the operation; empty where it is known to move nothing."""
    given: Sequence[torch.Tensor]
    """The tensors among these that depend on the input of the module."""
    of: Callable[[torch.Tensor], T | None]
    """What is known of a tensor; None where nothing is."""

    @property
    def told(self) -> list[T | None]:
        """What is known of each given tensor."""
        return [self.of(tensor) for tensor in self.given]


Rule: TypeAlias = Callable[[Made[T]], T | None]


class Follower(Generic[T]):
    """Follows what is known of tensors.

    Args:
        rules: What is known of what an operation makes, by the name of the operation.
        otherwise: The rule of all others, which tells nothing where nothing is known of what is given.
    """

    def __init__(self, rules: Mapping[str, Rule[T]], otherwise: Rule[T]) -> None:
        self._rules = rules
        self._otherwise = otherwise
        self._found = ByTensor[T]()

    def of(self, tensor: torch.Tensor) -> T | None:
        """What is known of a tensor; None where nothing is."""
        return self._found.get(tensor)

    def note(
        self, name: str, named: Mapping[str, Any], given: Sequence[torch.Tensor], made: Sequence[torch.Tensor]
    ) -> None:
        """Note what an operation makes, by its name and arguments, as `Made` has them."""
        rule = self._rules.get(name)
        if rule is None and not self._found:
            return
        for number, tensor in enumerate(made):
            self._found.put(tensor, (rule or self._otherwise)(Made(tensor, number, named, given, self.of)))
