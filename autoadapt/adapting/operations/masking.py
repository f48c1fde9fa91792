"""Operations on masks: zeros at hidden tokens, and an old module's mask in the form that the new one takes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import fx

from autoadapt.adapting import mask_layers
from autoadapt.adapting.operations.counted import Counted
from autoadapt.adapting.operations.mask_nodes import hidden, returned_mask
from autoadapt.adapting.operations.operation import BaseOperation, Dims
from autoadapt.adapting.operations.writer import Writer
from autoadapt.contracts.signature import DTYPES, Mask, Returned, TensorSpec


class Hide(BaseOperation):
    """Zeros at tokens that a mask hides, as the old module returned them."""

    says: ClassVar[str] = "zeros where a mask hides"
    text: ClassVar[str] = "zero but {where.mask.where}"
    short: ClassVar[str] = "where {where.mask.argument} hides it"
    op: Literal["hide"] = "hide"
    where: Counted

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        return hidden(self.where, node, graph)


class Remask(BaseOperation):
    """A mask of the old module converted to the form of the new one's."""

    says: ClassVar[str] = "a mask of another form"
    takes_any: ClassVar[bool] = True
    short: ClassVar[str] = "of what is hidden or counts"
    op: Literal["remask"] = "remask"
    given: Mask
    wanted: Mask
    dtype: str
    dims: Dims
    returned: Returned | None = Field(default=None, exclude_if=lambda returned: returned is None)
    """The form in which the old module returned the mask, where this is an output; None where it is an input."""

    def __str__(self) -> str:
        same = (self.given.form, self.given.counts) == (self.wanted.form, self.wanted.counts)
        turned = self.given.form == self.wanted.form == "truth" and not same
        return "inverted" if turned else f"{self.wanted.argument} {self.given.where}"

    def made_of(self, spec: TensorSpec) -> TensorSpec:
        return spec.with_dims(self.dims).model_copy(update={"dtype": self.dtype, "same_as": ""})

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        options = graph.sizes(self.dims), DTYPES[self.dtype], self.wanted.form, self.wanted.counts
        return graph.put(
            "call_function", mask_layers.as_mask, returned_mask(self.given, self.returned, graph), *options
        )
