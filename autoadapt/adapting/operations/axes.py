"""Operations on axes: splitting, permuting and merging."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import fx

from autoadapt.adapting.operations.operation import BaseOperation, Conversion, Dims
from autoadapt.adapting.operations.patterns import axis_groups
from autoadapt.adapting.operations.writer import Writer
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import TensorSpec, cells_in


class Rearrange(BaseOperation):
    """Split, permute and merge axes, in einops notation."""

    says: ClassVar[str] = "moves, splits, merges axes"
    converts: ClassVar[Conversion | None] = "layout"
    text: ClassVar[str] = "{pattern}"
    takes_any: ClassVar[bool] = True
    op: Literal["rearrange"] = "rearrange"
    pattern: str
    sizes: dict[str, Dim] = Field(default_factory=dict)
    """The size of each name that a merged axis is split into."""

    def dims_after(self, spec: TensorSpec) -> Dims:
        left, right = axis_groups(self.pattern)
        if len(left) != len(spec.dims):
            raise self.refused(spec, f"{len(left)} axes")
        known = self._named(left, spec)
        for names, dim in zip(left, spec.dims, strict=True):
            if len(names) != 1 and _product(names, known) != dim:
                raise self.refused(spec, f"an axis of size {_product(names, known)}")
        return tuple(_product(names, known) for names in right)

    def order_after(self, spec: TensorSpec) -> tuple[str, int]:
        left, right = axis_groups(self.pattern)
        known = self._named(left, spec)
        merged = [[known[name] for name in names if known[name].axes - {"B"}] for names in right]
        order = next(([min(dim.axes) for dim in dims] for dims in merged if len(dims) > 1), None)
        if order is not None:
            return cells_in(order), 0
        return ("rows", 0) if any(len(names) > 1 for names in left) else spec.order

    def _named(self, left: Sequence[Sequence[str]], spec: TensorSpec) -> dict[str, Dim]:
        """The size of each name."""
        alone = zip(left, spec.dims, strict=False)
        return self.sizes | {names[0]: dim for names, dim in alone if len(names) == 1}

    def stays_contiguous(self, before: bool) -> bool:
        left, right = ([name for names in side for name in names] for side in axis_groups(self.pattern))
        return before and left == right

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        """Writes `unflatten`, `permute` and `flatten`."""
        left, right = axis_groups(self.pattern)
        for axis in reversed(range(len(left))):
            if len(left[axis]) > 1:
                sizes = tuple(graph.sizes([self.sizes[name] for name in left[axis]]))
                node = graph.put("call_method", "unflatten", node, axis, sizes)
            elif not left[axis]:
                node = graph.put("call_method", "squeeze", node, axis)
        have, want = ([name for names in side for name in names] for side in (left, right))
        if have != want:
            node = graph.put("call_method", "permute", node, *[have.index(name) for name in want])
        for axis, names in enumerate(right):
            if len(names) > 1:
                node = graph.put("call_method", "flatten", node, axis, axis + len(names) - 1)
            elif not names:
                node = graph.put("call_method", "unsqueeze", node, axis)
        return node


class Flip(BaseOperation):
    """Reverse the order of cells along axes."""

    says: ClassVar[str] = "reverses the order of cells"
    converts: ClassVar[Conversion | None] = "layout"
    takes_any: ClassVar[bool] = True
    op: Literal["flip"] = "flip"
    axes: tuple[int, ...]

    def __str__(self) -> str:
        return f"flip {self.label}"

    @property
    def label(self) -> str:
        return f"{'axes' if len(self.axes) > 1 else 'axis'} {', '.join(map(str, self.axes))}"

    def made_of(self, spec: TensorSpec) -> TensorSpec:
        turned = frozenset[str]().union(*(spec.dims[axis].axes for axis in self.axes))
        centres = [
            one.model_copy(update={"reversed": not one.reversed}) if one.axis in turned else one for one in spec.centres
        ]
        return super().made_of(spec).model_copy(update={"centres": tuple(centres)})

    def stays_contiguous(self, before: bool) -> bool:
        return True

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        return graph.put("call_method", "flip", node, self.axes)


def _product(names: Sequence[str], known: Mapping[str, Dim]) -> Dim:
    return math.prod((known[name] for name in names), start=Dim(1))
