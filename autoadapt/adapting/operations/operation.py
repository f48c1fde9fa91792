"""One operation: what each says, makes of a tensor, costs and writes; a new one answers where it differs."""

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

__all__ = ["BaseOperation", "Conversion", "Dims", "entries", "shown_sizes", "specs_along", "values_in"]

Conversion: TypeAlias = Literal["layout", "channels", "size", "statistics"]
"""What may be changed of an input: the order of its axes, how many channels are read, height and width, and
mean, spread, range and order of colours, where these of both modules are known."""
Dims: TypeAlias = tuple[Dim, ...]


class BaseOperation(MadeByHand):
    """What each operation answers; `str` of one stands in a plan's table."""

    if TYPE_CHECKING:  # each class has it as a field, at the place where its JSON lists it
        op: str
    says: ClassVar[str]
    """What it does, where a picture explains its operations."""
    takes_any: ClassVar[bool] = False
    """Whether also values that are not floating-point numbers may go in."""
    converts: ClassVar[Conversion | None] = None
    """What it changes of an input, as `convert_inputs` calls that; None for what needs no leave."""
    moves_cells: ClassVar[bool] = False
    """Whether cells that come out lie elsewhere, so that centres that were known are not any longer."""

    keeps_memory: ClassVar[bool] = False
    """Whether what comes out lies in memory as what goes in does, as after convolution, pooling and interpolation."""
    text: ClassVar[str] = ""
    """It in a table, with its fields in braces; a class that has to decide has `__str__` instead."""
    short: ClassVar[str] = ""
    """The same where its name stands above it already, if that is something else."""

    def __str__(self) -> str:
        return self.text.format_map(self.__dict__)

    @property
    def label(self) -> str:
        """What there is to say where its name stands above it already."""
        return self.short.format_map(self.__dict__) or str(self).replace("->", "→")

    @property
    def parameters(self) -> int:
        """How many it has."""
        return 0

    def gives(self, spec: TensorSpec) -> TensorSpec:
        """What comes out when a tensor of a spec goes in.

        Raises:
            PlanError: It does not fit the tensor.
        """
        if not spec.is_floating and not self.takes_any:
            raise self.refused(spec, "floating-point values")
        try:
            return self.made_of(spec)
        except LookupError:  # a plan that was edited may name an axis that there is not
            raise self.refused(spec, "the axes that it names") from None

    def made_of(self, spec: TensorSpec) -> TensorSpec:
        """The same of values that may go in; an axis that it names may be missing."""
        dims, (cells, trailing) = self.dims_after(spec), self.order_after(spec)
        update = {"dims": dims, "same_as": "", "cells": cells, "trailing": trailing}
        return spec.model_copy(update=update | ({"centres": ()} if self.moves_cells else {}))

    def dims_after(self, spec: TensorSpec) -> Dims:
        """The dims that come out.

        Raises:
            PlanError: It does not fit the tensor.
        """
        return spec.dims

    def order_after(self, spec: TensorSpec) -> tuple[str, int]:
        """How cells stand among the tokens that come out."""
        return spec.order

    def multiply_adds(self, spec: TensorSpec, sizes: Mapping[str, int]) -> int:
        """Multiplications with addition that it takes at given sizes of the input axes."""
        return 0

    def stays_contiguous(self, before: bool) -> bool:
        """Whether what comes out lies in memory in the order of its axes, where what goes in does or does not."""
        return before or not self.keeps_memory

    @abc.abstractmethod
    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        """Writes it.

        Args:
            node: What goes in.
            spec: What that is.
            graph: That is being written.
        """

    def refused(self, spec: TensorSpec, expected: str) -> PlanError:
        """The error of an operation that does not fit its input."""
        fault = Mismatch(str(self), expected, str(spec), "let autoadapt.plan derive the chain")
        return PlanError(f"`{self}` does not fit its input", [fault])

    def sides_of(self, spec: TensorSpec, count: int) -> tuple[Dims, Dims]:
        """The first two dims of a tensor, and as many spatial ones behind them.

        Raises:
            PlanError: It has more or fewer.
        """
        if len(spec.dims) != count + 2:
            raise self.refused(spec, f"a batch axis, a channel axis and {count} spatial axes")
        return spec.dims[:2], spec.dims[2:]


def entries(axis: int, part: slice | int) -> tuple[slice | int, ...]:
    """The index of a part of an axis."""
    return (*(slice(None),) * axis, part)


def shown_sizes(sizes: Sequence[object]) -> str:
    """Sizes as a table shows them: once where they are equal."""
    return str(sizes[0]) if len(set(map(str, sizes))) == 1 else " x ".join(map(str, sizes))


def specs_along(spec: TensorSpec, steps: Iterable[BaseOperation]) -> tuple[TensorSpec, ...]:
    """What stands before, between and behind the steps of a chain that begins with a tensor."""
    return tuple(itertools.accumulate(steps, lambda given, step: step.gives(given), initial=spec))


def values_in(spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    """How many values a tensor has at given sizes of the input axes."""
    return math.prod(spec.shape(sizes))
