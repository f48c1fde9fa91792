"""The base class of operations: their texts, the spec and cost of their result, and the nodes that they write."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from torch import fx

from autoadapt.adapting.operations.writer import Writer
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.signature import TensorSpec
from autoadapt.errors import Mismatch, PlanError

Conversion: TypeAlias = Literal["layout", "channels", "size", "statistics"]
"""What may be changed of an input: the order of its axes, its channels, height and width, or its normalisation (mean,
standard deviation, range, order of colours)."""
Dims: TypeAlias = tuple[Dim, ...]


class BaseOperation(MadeByHand):
    """An operation of a plan; `str` of one is its text in the plan's table."""

    if TYPE_CHECKING:  # each class has it as a field, at the place where its JSON lists it
        op: str
    says: ClassVar[str]
    """What it does, in a picture's legend."""
    takes_any: ClassVar[bool] = False
    """Whether its input may be of any dtype, and not only floating."""
    converts: ClassVar[Conversion | None] = None
    """The conversion of an input that it is, which `convert_inputs` must allow; None for all others."""
    moves_cells: ClassVar[bool] = False
    """Whether the cells of the result lie elsewhere, so that their centres are no longer known."""

    keeps_memory: ClassVar[bool] = False
    """Whether the result has the memory format of the input, as after convolution, pooling and interpolation."""
    text: ClassVar[str] = ""
    """Its text in a table, with fields in braces; classes whose text depends on more have `__str__` instead."""
    short: ClassVar[str] = ""
    """Its text where its name is shown as well, if that differs."""

    def __str__(self) -> str:
        return self.text.format_map(self.__dict__)

    @property
    def label(self) -> str:
        """Its text where its name is shown as well."""
        return self.short.format_map(self.__dict__) or str(self).replace("->", "→")

    @property
    def parameters(self) -> int:
        """How many parameters it has."""
        return 0

    def gives(self, spec: TensorSpec) -> TensorSpec:
        """The spec of the result for an input of a spec.

        Raises:
            PlanError: It does not fit the tensor.
        """
        if not spec.is_floating and not self.takes_any:
            raise self.refused(spec, "floating-point values")
        try:
            return self.made_of(spec)
        except LookupError:  # a plan that was edited may name an axis that does not exist
            raise self.refused(spec, "the axes that it names") from None

    def made_of(self, spec: TensorSpec) -> TensorSpec:
        """As `gives`, for a dtype that it takes; raises `LookupError` where an axis that it names is missing."""
        dims, (cells, trailing) = self.dims_after(spec), self.order_after(spec)
        update = {
            "dims": dims,
            "same_as": "",
            "cells": cells,
            "trailing": trailing,
            "leading": self.leading_after(spec),
        }
        return spec.model_copy(update=update | ({"centres": ()} if self.moves_cells else {}))

    def dims_after(self, spec: TensorSpec) -> Dims:
        """The dims of the result.

        Raises:
            PlanError: It does not fit the tensor.
        """
        return spec.dims

    def order_after(self, spec: TensorSpec) -> tuple[str, int]:
        """Order of cells and number of trailing tokens of the result, as `TensorSpec.order`."""
        return spec.order

    def leading_after(self, spec: TensorSpec) -> int:
        """Tokens before the cells of a sequence in the result, as `TensorSpec.leading`."""
        return spec.leading

    def multiply_adds(self, spec: TensorSpec, sizes: Mapping[str, int]) -> int:
        """Multiply-adds at given sizes of the input axes."""
        return 0

    def stays_contiguous(self, before: bool) -> bool:
        """Whether the result is contiguous, for an input that is or is not."""
        return before or not self.keeps_memory

    @abc.abstractmethod
    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        """Write it.

        Args:
            node: The node of its input.
            spec: The spec of its input.
            graph: The graph.

        Returns:
            The node of its result.
        """

    def refused(self, spec: TensorSpec, expected: str) -> PlanError:
        """The error of an operation that does not fit its input."""
        fault = Mismatch(str(self), expected, str(spec), "let autoadapt.plan derive the chain")
        return PlanError(f"`{self}` does not fit its input", [fault])

    def sides_of(self, spec: TensorSpec, count: int) -> tuple[Dims, Dims]:
        """The batch and channel dims of a tensor, and its `count` spatial ones.

        Raises:
            PlanError: It has more or fewer.
        """
        if len(spec.dims) != count + 2:
            raise self.refused(spec, f"a batch axis, a channel axis and {count} spatial axes")
        return spec.dims[:2], spec.dims[2:]


def entries(axis: int, part: slice | int) -> tuple[slice | int, ...]:
    """The index expression for a part of an axis: `x[:, :, part]`."""
    return (*(slice(None),) * axis, part)


def shown_sizes(sizes: Sequence[object]) -> str:
    """Sizes as a table shows them: once where they are equal."""
    return str(sizes[0]) if len(set(map(str, sizes))) == 1 else " x ".join(map(str, sizes))


def specs_along(spec: TensorSpec, steps: Iterable[BaseOperation]) -> tuple[TensorSpec, ...]:
    """The specs before, between and behind the steps of a chain that begins with a tensor."""
    return tuple(itertools.accumulate(steps, lambda given, step: step.gives(given), initial=spec))


def values_in(spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    """The number of values of a tensor at given sizes of the input axes."""
    return math.prod(spec.shape(sizes))
