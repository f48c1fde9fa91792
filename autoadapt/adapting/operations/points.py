"""Operations on point clouds: choosing some points, and finding the index of points in an input."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

from torch import fx

from autoadapt.adapting import layers
from autoadapt.adapting.operations.operation import BaseOperation
from autoadapt.adapting.operations.writer import Writer
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import DTYPES, TensorSpec

Thinning: TypeAlias = Literal["farthest", "first", "even", "random", "repeat"]
"""How points are chosen: by farthest point sampling, the first, at even steps, at random, or all of them repeatedly."""


class Recover(BaseOperation):
    """For each point its index in an input that holds it, bit for bit: `[B, M, K] -> [B, M]`."""

    says: ClassVar[str] = "finds rows in an input"
    takes_any: ClassVar[bool] = True
    text: ClassVar[str] = "find in {values}"
    short: ClassVar[str] = "in {values}"
    op: Literal["recover"] = "recover"
    values: str
    """Path of the input, `[B, N, >= K]`, or `[B, >= K, N]` where its axis 2 lists points."""
    dtype: str
    values_axis: Literal[1, 2] = 1
    """Which axis of the input lists points."""
    points_axis: Literal[1, 2] = 1
    """Which axis of the coordinates lists points."""

    def made_of(self, spec: TensorSpec) -> TensorSpec:
        return TensorSpec(dtype=self.dtype, dims=(spec.dims[0], spec.dims[self.points_axis]), role="index")

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        points, values = (
            one if axis == 1 else graph.put("call_method", "transpose", one, 1, 2)
            for one, axis in ((node, self.points_axis), (graph.given[self.values], self.values_axis))
        )
        return graph.put("call_function", layers.recover_indices, points, values, DTYPES[self.dtype])


class Thin(BaseOperation):
    """Choose some points of a cloud, the same ones for all its outputs; with `repeat` also more than it has."""

    says: ClassVar[str] = "takes some of the points"
    takes_any: ClassVar[bool] = True
    text: ClassVar[str] = "{source} points, {how} {count}"
    short: ClassVar[str] = "{source}→{count}, {how}"
    op: Literal["thin"] = "thin"
    axis: int
    """Which axis of the tensor lists points."""
    source: int
    """How many points there are."""
    count: int
    """How many are chosen."""
    how: Thinning
    points: str
    """Path of the coordinates among the new module's outputs, `[B, N, K]`, or of any other output of the cloud."""
    points_axis: int = 1
    """Which axis of that output lists points."""
    seed: int = 0

    def made_of(self, spec: TensorSpec) -> TensorSpec:
        if spec.dims[self.axis] != self.source:
            raise self.refused(spec, f"{self.source} points on axis {self.axis}")
        dims = (*spec.dims[: self.axis], Dim(self.count), *spec.dims[self.axis + 1 :])
        return spec.with_dims(dims).model_copy(update={"same_as": ""})

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        key, how = self.model_copy(update={"axis": 0}), (self.count, self.how, self.points_axis, self.seed)
        chosen = graph.once(key, lambda: graph.call("chosen", layers.choose_points, graph.features[self.points], *how))
        return graph.put("call_function", layers.take_points, node, chosen, self.axis)
