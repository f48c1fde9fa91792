"""Values: another dtype, a tensor of its own, and what held of the old values."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import fx

from autoadapt.adapting.operations.operation import BaseOperation
from autoadapt.adapting.operations.writer import Writer
from autoadapt.contracts.signature import DTYPES, TensorSpec
from autoadapt.contracts.signature.held_values import What

__all__ = ["ACTIVATIONS", "Cast", "Copy", "Restore"]

ACTIVATIONS = {"between 0 and 1": "sigmoid", "between -1 and 1": "tanh"}
"""What brings values within bounds, as torch calls it."""
_FUNCTIONS = {"norm 1": F.normalize, "probabilities": F.softmax, "log-probabilities": F.log_softmax}


class Restore(BaseOperation):
    """Vectors along an axis made to have norm 1, or to be probabilities or their logarithms, by a softmax.

    Or all values brought between 0 and 1 by a sigmoid, between -1 and 1 by tanh.
    """

    says: ClassVar[str] = "norm 1 or sum 1 as before"
    op: Literal["restore"] = "restore"
    what: What
    axis: int = 1
    on: bool = Field(default=False, exclude_if=lambda on: not on)
    """Whether the axes behind it belong to the vectors too."""

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
    """Another dtype."""

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
    """A tensor of its own, since what comes next writes to it."""

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
