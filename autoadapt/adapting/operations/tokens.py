"""Operations on tokens: dropping, selecting or adding some, and resizing their grid."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import fx

from autoadapt.adapting import token_layers
from autoadapt.adapting.operations.counted import Counted, where_text
from autoadapt.adapting.operations.mask_nodes import last
from autoadapt.adapting.operations.operation import BaseOperation, Dims, entries, shown_sizes, values_in
from autoadapt.adapting.operations.spatial import separable
from autoadapt.adapting.operations.writer import Writer
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import TensorSpec, cells_in, in_order, is_sequence


class DropPrefix(BaseOperation):
    """Drop the first entries of an axis, such as class and register tokens; or the last ones."""

    says: ClassVar[str] = "leaves leading entries out"
    takes_any: ClassVar[bool] = True
    op: Literal["drop"] = "drop"
    axis: int
    count: int
    at_end: bool = False
    after: int = Field(default=0, exclude_if=lambda after: not after)
    """How many entries in front of them are kept, such as the class token before registers."""

    def __str__(self) -> str:
        after = f" after {self.after}" if self.after else ""
        return f"drop last {self.count}" if self.at_end else f"drop {self.count}{after}"

    @property
    def label(self) -> str:
        where = f"after {self.after}:" if self.after else "last" if self.at_end else "first"
        return f"{where} {self.count}" + (f" of axis {self.axis}" if self.axis != 1 else "")

    def dims_after(self, spec: TensorSpec) -> Dims:
        dims = spec.dims
        return (*dims[: self.axis], dims[self.axis] - self.count, *dims[self.axis + 1 :])

    def order_after(self, spec: TensorSpec) -> tuple[str, int]:
        return (spec.cells, max(spec.trailing - self.count, 0)) if self.at_end else spec.order

    def leading_after(self, spec: TensorSpec) -> int:
        drops = not self.at_end and is_sequence(spec.dims[self.axis])
        return max(spec.leading - self.count * drops, 0)

    def stays_contiguous(self, before: bool) -> bool:
        return before and self.after > 0

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        kept = slice(None, -self.count) if self.at_end else slice(self.after + self.count, None)
        ends = [slice(self.after)] * bool(self.after) + [kept]
        parts = [graph.put("call_function", operator.getitem, node, entries(self.axis, part)) for part in ends]
        return graph.put("call_function", torch.cat, parts, self.axis) if self.after else parts[0]


class Take(BaseOperation):
    """Select the first entry of an axis, the class token, or the last one that counts; the axis is removed."""

    says: ClassVar[str] = "takes the class token"
    moves_cells: ClassVar[bool] = True
    op: Literal["take"] = "take"
    axis: int
    last: bool = Field(default=False, exclude_if=lambda last: not last)
    where: Counted | None = Field(default=None, exclude_if=lambda where: where is None)
    """Which tokens count, for the last one; None where all do."""

    def __str__(self) -> str:
        return f"last token{where_text(self.where)}" if self.last else "class token"

    @property
    def label(self) -> str:
        return "last token that counts" if self.where else "last token" if self.last else "first token"

    def dims_after(self, spec: TensorSpec) -> Dims:
        return (*spec.dims[: self.axis], *spec.dims[self.axis + 1 :])

    def order_after(self, spec: TensorSpec) -> tuple[str, int]:
        return "rows", 0

    def stays_contiguous(self, before: bool) -> bool:
        return False

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        if self.where:
            return last(self.where, node, graph)
        return graph.put("call_function", operator.getitem, node, entries(self.axis, -int(self.last)))


class Lead(BaseOperation):
    """Put the mean of all cells in front of them, `[B, N, C] -> [B, 1 + N, C]`, in place of a class token."""

    says: ClassVar[str] = "a class token of the mean"
    text: ClassVar[str] = "mean of cells first"
    op: Literal["lead"] = "lead"

    def dims_after(self, spec: TensorSpec) -> Dims:
        return (spec.dims[0], spec.dims[1] + 1, *spec.dims[2:])

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        return graph.put("call_function", token_layers.lead_with_mean, node)


class ResizeTokens(BaseOperation):
    """Linear interpolation of tokens on their grid, `[B, prefix + cells + suffix, C]`; others stay as they are."""

    says: ClassVar[str] = "interpolates to exact sizes"
    moves_cells: ClassVar[bool] = True
    op: Literal["resize tokens"] = "resize tokens"
    prefix: int
    source: Dims
    """The grid, one size for each side."""
    dims: Dims
    """The wanted grid."""
    kernel: tuple[int, ...] = ()
    """Cells along each wanted side that are averaged before; empty for none."""
    order: tuple[int, ...] = Field(default=(), exclude_if=lambda order: not order)
    """For each wanted side its index in `source`, where the orders differ."""

    first: tuple[float, ...] = Field(default=(), exclude_if=lambda first: not first)
    """The centre of the first cell along each wanted side, as of `Resample`; empty where cells are stretched."""
    step: tuple[float, ...] = Field(default=(), exclude_if=lambda step: not step)
    """From one centre to the next along each wanted side, in cells of the source."""
    suffix: int = Field(default=0, exclude_if=lambda suffix: not suffix)
    """The number of tokens behind the cells."""

    def __str__(self) -> str:
        return f"{self.short_text} {self._over}"

    @property
    def short_text(self) -> str:
        """Its text without sizes."""
        return "resample tokens" if self.first else "resize tokens"

    @property
    def label(self) -> str:
        ends = [f"first {self.prefix}"] * bool(self.prefix) + [f"last {self.suffix}"] * bool(self.suffix)
        return f"{self._over}, {' and '.join(ends)} as they are"

    @property
    def _over(self) -> str:
        centres = [f"{start:g} + {by:g} j" for start, by in zip(self.first, self.step, strict=True)]
        return f"to {shown_sizes(self.dims)}" + (f" at {shown_sizes(centres)}" if centres else "")

    def dims_after(self, spec: TensorSpec) -> Dims:
        dims, grid = spec.dims, math.prod(self.source, start=Dim(1))
        extra = self.prefix + self.suffix
        if len(dims) != 3 or dims[1] != grid + extra:
            sides = shown_sizes(self.source) + f" and {self.suffix} behind it" * bool(self.suffix)
            raise self.refused(spec, f"{self.prefix} tokens before a grid of {sides}, and channels last")
        return (dims[0], math.prod(self.dims, start=Dim(1)) + extra, dims[2])

    def order_after(self, spec: TensorSpec) -> tuple[str, int]:
        if not self.order:
            return spec.order
        sides = in_order("THW" if len(self.order) == 3 else "HW", spec.cells)
        return cells_in([sides[side] for side in self.order]), self.suffix

    def multiply_adds(self, spec: TensorSpec, sizes: Mapping[str, int]) -> int:
        made = values_in(self.gives(spec), sizes)
        if self.first:
            before, then = ([int(dim.evaluate(sizes)) for dim in sides] for sides in (self.source, self.dims))
            before = [before[side] for side in self.order] or before
            return separable(math.prod(spec.shape(sizes)[::2]), [*zip(before, then, strict=True)])
        return (made << len(self.dims)) + (values_in(spec, sizes) if self.kernel else 0)

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        sides = [graph.sizes(side) for side in (self.source, self.dims)] + [[*self.kernel]] * bool(self.kernel)
        told = {"order": self.order, "first": self.first, "step": self.step}
        more: dict[str, object] = {name: [*values] for name, values in told.items() if values}
        more |= {"trailing": self.suffix} if self.suffix else {}
        return graph.put("call_function", token_layers.resize_tokens, node, self.prefix, *sides, **more)
