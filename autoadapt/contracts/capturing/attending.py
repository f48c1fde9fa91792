"""Attending: which modules of a run compute attention, and which outputs of modules are added to a residual stream."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from autoadapt.contracts.capturing.arguments import tensors_in
from autoadapt.contracts.capturing.by_tensor import ByTensor


class Attending(TorchFunctionMode):
    """Notes which module was running when attention was computed.

    That is `scaled_dot_product_attention`, or a softmax along the last axis of matrices: the softmax weights of a few
    branches, or of one pooling query, are vectors.

    It also follows, through the functions that run between modules, from which outputs of modules a tensor is computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[str, bool]] = []
        """Path of each running module, the innermost last, and whether it has children."""
        self.found: set[str] = set()
        """Paths of the modules that compute attention."""
        self.added: set[int] = set()
        """Numbers of the module outputs that a function added to a tensor they were computed from."""
        self._outputs = 0
        """How many outputs of modules there were; each has its number, from 1."""
        self._made_of = ByTensor[frozenset[int]]()
        """Numbers of the outputs that a tensor is computed from by functions alone."""
        self._behind: dict[int, int] = {}
        """By number of an output: bits of all outputs that the inputs of its module were computed from."""
        self._numbers = ByTensor[tuple[int, ...]]()
        """All numbers of a tensor, since several modules may return it: a layer, and the block that ends with it."""

    def returned(self, tensor: torch.Tensor, given: object) -> int:
        """Note that a module returned a tensor.

        Returns:
            The number of the output.
        """
        self._outputs += 1
        self._behind[self._outputs] = self._all_behind(frozenset().union(*map(self._parts, tensors_in(given))))
        self._made_of.put(tensor, frozenset([self._outputs]))
        self._numbers.put(tensor, (*self._returned_as(tensor), self._outputs))
        return self._outputs

    def is_sum(self, tensor: torch.Tensor) -> bool:
        """Whether functions computed a tensor from several outputs of modules, as they do a residual stream."""
        return len(self._parts(tensor)) > 1

    def _returned_as(self, tensor: torch.Tensor) -> tuple[int, ...]:
        return self._numbers.get(tensor) or ()

    def _parts(self, tensor: torch.Tensor) -> frozenset[int]:
        return self._made_of.get(tensor) or frozenset()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _WEIGHING and (func in _ATTENTION or _of_matrices(args, kwargs or {})):
            self.found.update([path for path, holds in self.running if holds][-1:])
        made = func(*args, **(kwargs or {}))
        if not self.running or self.running[-1][1]:  # not inside a layer, whose output `returned` notes
            if func in _ADDING and isinstance(made, torch.Tensor):
                self._note_added(made, args)
            self._follow(made, tensors_in(args))
        return made

    def _note_added(self, made: torch.Tensor, args: tuple[Any, ...]) -> None:
        """Note outputs of modules that are added, unchanged, to a tensor they were computed from.

        Where that is done in place, a module that returns the same tensor later returns the sum.
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
                self._made_of.put(tensor, parts)


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
