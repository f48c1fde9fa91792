"""Operations on spatial axes, `[B, C, *spatial]`: averaging, resizing, resampling and padding."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import fx

from autoadapt.adapting import layers
from autoadapt.adapting.operations.counted import Counted, where_text
from autoadapt.adapting.operations.mask_nodes import averaged
from autoadapt.adapting.operations.operation import BaseOperation, Conversion, Dims, shown_sizes, values_in
from autoadapt.adapting.operations.writer import Writer
from autoadapt.contracts.signature import TensorSpec


class Averaging(BaseOperation):
    """The base class of operations that average, where a mask may exclude tokens."""

    moves_cells: ClassVar[bool] = True
    where: Counted | None = Field(default=None, exclude_if=lambda where: where is None)
    """Which tokens count; None where all do."""

    def __str__(self) -> str:
        return f"{self.op} {self._over}{where_text(self.where)}"

    @property
    def label(self) -> str:
        return f"{self._over}{where_text(self.where)}"

    @property
    @abc.abstractmethod
    def _over(self) -> str:
        """What it averages over, as text."""

    def multiply_adds(self, spec: TensorSpec, sizes: Mapping[str, int]) -> int:
        return values_in(spec, sizes)

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        if self.where is None:
            return self._average(node, graph)
        return averaged(self.where, node, lambda one: self._average(one, graph), graph)

    @abc.abstractmethod
    def _average(self, node: fx.Node, graph: Writer) -> fx.Node:
        """Write the average over all tokens."""


class Mean(Averaging):
    """Average over axes, which are removed."""

    says: ClassVar[str] = "averages whole axes"
    op: Literal["mean"] = "mean"
    axes: tuple[int, ...]

    @property
    def label(self) -> str:
        over = f"axes {', '.join(map(str, self.axes))}" if len(self.axes) > 1 else f"axis {self.axes[0]}"
        return f"{over}, where {self.where.mask.argument} lets it" if self.where is not None else over

    @property
    def _over(self) -> str:
        return f"over {', '.join(map(str, self.axes))}"

    def dims_after(self, spec: TensorSpec) -> Dims:
        return tuple(dim for axis, dim in enumerate(spec.dims) if axis not in self.axes)

    def order_after(self, spec: TensorSpec) -> tuple[str, int]:
        return "rows", 0

    def _average(self, node: fx.Node, graph: Writer) -> fx.Node:
        return graph.put("call_method", "mean", node, self.axes)


class Pool(Averaging):
    """Average pooling, where the last window of an axis may be smaller; `[B, C, *spatial]`."""

    says: ClassVar[str] = "averages cells"
    keeps_memory: ClassVar[bool] = True
    op: Literal["pool"] = "pool"
    kernel: tuple[int, ...]
    """One size for each spatial axis."""

    @property
    def _over(self) -> str:
        return shown_sizes(self.kernel)

    def dims_after(self, spec: TensorSpec) -> Dims:
        front, sides = self.sides_of(spec, len(self.kernel))
        return front + tuple(dim.ceildiv(size) for dim, size in zip(sides, self.kernel, strict=True))

    def _average(self, node: fx.Node, graph: Writer) -> fx.Node:
        return graph.put("call_function", layers.pool, node, [*self.kernel])


class Resize(Averaging):
    """Linear interpolation of the spatial axes to exact sizes; `[B, C, *spatial]`."""

    says: ClassVar[str] = "interpolates to exact sizes"
    converts: ClassVar[Conversion | None] = "size"
    keeps_memory: ClassVar[bool] = True
    op: Literal["resize"] = "resize"
    dims: Dims
    """One size for each spatial axis."""

    @property
    def _over(self) -> str:
        return f"to {shown_sizes(self.dims)}"

    def dims_after(self, spec: TensorSpec) -> Dims:
        return self.sides_of(spec, len(self.dims))[0] + self.dims

    def multiply_adds(self, spec: TensorSpec, sizes: Mapping[str, int]) -> int:
        return values_in(self.gives(spec), sizes) << len(self.dims)  # linear interpolation reads two cells per axis

    def _average(self, node: fx.Node, graph: Writer) -> fx.Node:
        return graph.put("call_function", layers.resize, node, graph.sizes(self.dims))


class Resample(Averaging):
    """Read spatial axes at other centres, `[B, C, *spatial]`: cell j at `first + j*step`, in cells of the input.

    Linear interpolation; where the step is longer than a cell, a triangle filter of that width. Centres beyond the
    border are moved to it. Where all centres are those of cells, the result is exact.
    """

    says: ClassVar[str] = "samples at old cell centres"
    op: Literal["resample"] = "resample"
    first: tuple[float, ...]
    """The centre of the first cell along each spatial axis, in cells of the input."""
    step: tuple[float, ...]
    """From one centre to the next, in cells of the input."""
    dims: Dims
    """The number of cells along each spatial axis."""

    @property
    def picks(self) -> bool:
        """Whether cells are only selected."""
        return set(self.step) == {1.0} and all(first.is_integer() for first in self.first)

    @property
    def _over(self) -> str:
        centres = [f"{start:g} + {by:g} j" for start, by in zip(self.first, self.step, strict=True)]
        return f"to {shown_sizes(self.dims)} at {shown_sizes(centres)}"

    def dims_after(self, spec: TensorSpec) -> Dims:
        return self.sides_of(spec, len(self.dims))[0] + self.dims

    def multiply_adds(self, spec: TensorSpec, sizes: Mapping[str, int]) -> int:
        shape = spec.shape(sizes)
        cells = zip(shape[2:], (int(dim.evaluate(sizes)) for dim in self.dims), strict=True)
        return 0 if self.picks else separable(math.prod(shape[:2]), list(cells))

    def _average(self, node: fx.Node, graph: Writer) -> fx.Node:
        return graph.put("call_function", layers.resample, node, [*self.first], [*self.step], graph.sizes(self.dims))


class Pad(BaseOperation):
    """Zeros below and to the right, up to exact sizes, so that cells stay where they are; `[B, C, *spatial]`.

    A larger input is cut off, where the old module did not read the rest either.
    """

    says: ClassVar[str] = "zeros below and to the right"
    converts: ClassVar[Conversion | None] = "size"
    op: Literal["pad"] = "pad"
    dims: Dims
    """One size for each spatial axis."""

    def __str__(self) -> str:
        return f"pad {self.label}"

    @property
    def label(self) -> str:
        return f"to {shown_sizes(self.dims)}"

    def dims_after(self, spec: TensorSpec) -> Dims:
        return self.sides_of(spec, len(self.dims))[0] + self.dims

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        return graph.put("call_function", layers.pad, node, graph.sizes(self.dims))


def separable(maps: int, cells: Sequence[tuple[int, int]]) -> int:
    """Multiply-adds of one matrix product for each axis, one after the other."""
    total, left = 0, [before for before, _ in cells]
    for axis, (before, then) in enumerate(cells):
        left[axis] = then
        total += maps * math.prod(left) * before
    return total
