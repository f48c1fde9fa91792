"""Operations on values: casting, copying, and restoring a property that the old values had."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import fx

from autoadapt.adapting.operations.operation import BaseOperation
from autoadapt.adapting.operations.writer import Writer
from autoadapt.contracts.signature import DTYPES, TensorSpec
from autoadapt.contracts.signature.held_values import What

ACTIVATIONS = {"between 0 and 1": "sigmoid", "between -1 and 1": "tanh"}
"""The torch method that brings values within bounds."""
_FUNCTIONS = {"norm 1": F.normalize, "probabilities": F.softmax, "log-probabilities": F.log_softmax}


class Restore(BaseOperation):
    """Normalise vectors along an axis to norm 1, or apply a softmax or log softmax.

    Or bring each value between 0 and 1 by a sigmoid, between -1 and 1 by tanh.
    """

    says: ClassVar[str] = "norm 1 or sum 1 as before"
    op: Literal["restore"] = "restore"
    what: What
    axis: int = 1
    on: bool = Field(default=False, exclude_if=lambda on: not on)
    """Whether a vector extends over all axes from `axis` on."""

    def __str__(self) -> str:
        if self.what in ACTIVATIONS:
            return ACTIVATIONS[self.what]
        made = {"probabilities": "softmax", "log-probabilities": "log softmax"}.get(self.what, self.what)
        return f"{made} over axis {self.axis}{' on' * self.on}"

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        if self.what in ACTIVATIONS:
            return graph.put("call_method", ACTIVATIONS[self.what], node)
        vectors = graph.put("call_method", "flatten", node, self.axis) if self.on else node
        made = graph.put("call_function", _FUNCTIONS[self.what], vectors, dim=self.axis)
        return graph.put("call_method", "view_as", made, node) if self.on else made


class Cast(BaseOperation):
    """Cast to another dtype."""

    says: ClassVar[str] = "another dtype"
    takes_any: ClassVar[bool] = True
    text: ClassVar[str] = "to {dtype}"
    keeps_memory: ClassVar[bool] = True
    op: Literal["cast"] = "cast"
    dtype: str

    def made_of(self, spec: TensorSpec) -> TensorSpec:
        return spec.model_copy(update={"dtype": self.dtype, "same_as": ""})

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        return graph.put("call_method", "to", node, DTYPES[self.dtype])


class Copy(BaseOperation):
    """Copy a tensor that the new module writes to."""

    says: ClassVar[str] = "keeps the given tensor as it is"
    takes_any: ClassVar[bool] = True
    text: ClassVar[str] = "copy"
    short: ClassVar[str] = "before it is written to"
    keeps_memory: ClassVar[bool] = True
    op: Literal["copy"] = "copy"

    def made_of(self, spec: TensorSpec) -> TensorSpec:
        return spec.model_copy(update={"same_as": ""})

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        return graph.put("call_method", "clone", node)
