"""Attending: which modules of a run weigh tokens by each other, and what functions between modules add up."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import TensorWeakRef

from autoadapt.contracts.capturing.arguments import tensors_in

__all__ = ["Attending"]


class Attending(TorchFunctionMode):
    """Notes which module was running when a function of attention was called.

    That is scaled dot products, or a softmax along the last axis of matrices: weights of a few branches or of one
    pooled query are vectors.

    It also follows through functions that run between modules which outputs of modules a tensor is made of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[str, bool]] = []
        """Path of each module that runs, the innermost last, and whether it holds others."""
        self.found: set[str] = set()
        self.added: set[int] = set()
        """Which of the tensors that modules returned, counted from 1, a function added to what they were made of."""
        self._outputs = 0
        self._made_of: dict[int, tuple[TensorWeakRef, frozenset[int]]] = {}
        self._behind: dict[int, int] = {}
        """For each of these tensors, as bits, which of the earlier ones its module was given, or those that were."""
        self._numbers: dict[int, tuple[TensorWeakRef, tuple[int, ...]]] = {}
        """For each tensor that modules returned, the numbers of all: a layer, and what ends with it."""

    def returned(self, tensor: torch.Tensor, given: object) -> int:
        """A module returned a tensor, made of what it was given; gives its number."""
        self._outputs += 1
        self._behind[self._outputs] = self._all_behind(frozenset().union(*map(self._parts, tensors_in(given))))
        self._made_of[id(tensor)] = (TensorWeakRef(tensor), frozenset([self._outputs]))
        self._numbers[id(tensor)] = (TensorWeakRef(tensor), (*self._returned_as(tensor), self._outputs))
        return self._outputs

    def is_sum(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is made of several that modules returned, as a residual stream is."""
        return len(self._parts(tensor)) > 1

    def _returned_as(self, tensor: torch.Tensor) -> tuple[int, ...]:
        known = self._numbers.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else ()

    def _parts(self, tensor: torch.Tensor) -> frozenset[int]:
        known = self._made_of.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else frozenset()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _WEIGHING and (func in _ATTENTION or _of_matrices(args, kwargs or {})):
            self.found.update([path for path, holds in self.running if holds][-1:])
        made = func(*args, **(kwargs or {}))
        if not self.running or self.running[-1][1]:  # what runs within a layer, that returns
            if func in _ADDING and isinstance(made, torch.Tensor):
                self._note_added(made, args)
            self._follow(made, tensors_in(args))
        return made

    def _note_added(self, made: torch.Tensor, args: tuple[Any, ...]) -> None:
        """What was returned and is added as it is: any other function before that may have made a stream of it.

        Where it is added in place, what returns the same tensor later returns the sum.
        """
        given = [tensor for tensor in tensors_in(args) if tensor.shape == made.shape]
        for branch, stream in zip(given, given[::-1], strict=True) if len(given) == 2 else ():
            numbers = self._returned_as(branch)
            parts = self._bits(self._parts(stream))
            if numbers and parts and not parts & ~self._behind[numbers[-1]]:
                self.added.update(numbers)

    def _all_behind(self, parts: frozenset[int]) -> int:
        return functools.reduce(operator.or_, map(self._behind.__getitem__, parts), self._bits(parts))

    def _bits(self, parts: frozenset[int]) -> int:
        return sum(1 << part for part in parts)

    def _follow(self, made: Any, given: Iterator[torch.Tensor]) -> None:
        if isinstance(made, (torch.Tensor, tuple, list)):
            parts = frozenset().union(*map(self._parts, given))
            for tensor in tensors_in(made) if parts else ():
                self._made_of[id(tensor)] = (TensorWeakRef(tensor), parts)


def _of_matrices(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    scores = args[0] if args else kwargs.get("input")
    axis = args[1] if len(args) > 1 else kwargs.get("dim")
    if not isinstance(scores, torch.Tensor) or scores.ndim < 3 or axis not in (-1, scores.ndim - 1):
        return False
    return min(scores.shape[-2:]) > 1


_ATTENTION = frozenset({F.scaled_dot_product_attention, F.multi_head_attention_forward})
_ADDING = frozenset({torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__})
_ADDING |= {torch.Tensor.add_, torch.Tensor.__iadd__}
_WEIGHING = _ATTENTION | {F.softmax, torch.softmax, torch.Tensor.softmax}
