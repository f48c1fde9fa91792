"""Operations on channels: projections, and conversions of an image's channels, size and normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import fx

from autoadapt.adapting import layers
from autoadapt.adapting.operations.operation import BaseOperation, Conversion, Dims, values_in
from autoadapt.adapting.operations.writer import Writer
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import NativeSizes, Statistics, TensorSpec, channel_names, conversion, met_by_name
from autoadapt.errors import SignatureError

Projecting: TypeAlias = Literal["needed", "always", "places"]
"""Which features get a projection: those whose channels differ; all; all, with a map of its own at each of a few
places."""
FEATURE_CHANNELS = 16
"""An input of as many channels or more is a feature map and no image."""


class Project(BaseOperation):
    """A learned map of channels: a 1x1 convolution on axis 1, or a linear layer on the last axis.

    Example:
        >>> step = Project(form="conv", source=384, target=64)
        >>> print(step, step.parameters)
        384->64 24640
    """

    says: ClassVar[str] = "learned map of channels"
    op: Literal["project"] = "project"
    form: Literal["conv", "linear"]
    source: int = Field(ge=1)
    target: int = Field(ge=1)
    bias: bool = True
    groups: int = Field(default=1, ge=1, exclude_if=lambda groups: groups == 1)
    """The number of maps side by side, one for each place, from `source` to `target` channels each."""

    def __str__(self) -> str:
        return self.label.replace("→", "->").replace("×", "x")

    @property
    def label(self) -> str:
        return f"{self.groups} × " * (self.groups > 1) + f"{self.source}→{self.target}"

    @property
    def parameters(self) -> int:
        return self.groups * (self.source * self.target + (self.target if self.bias else 0))

    def dims_after(self, spec: TensorSpec) -> Dims:
        return _mapped(self, spec, 1 if self.form == "conv" else len(spec.dims) - 1, self.groups)

    def multiply_adds(self, spec: TensorSpec, sizes: Mapping[str, int]) -> int:
        return values_in(self.gives(spec), sizes) * self.source

    def stays_contiguous(self, before: bool) -> bool:
        return before or self.form != "conv"

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        return graph.put("call_module", graph.module, node)


class Ones(BaseOperation):
    """One more channel, of ones: a reader that pads with zeros sees where the offset of a projection was."""

    says: ClassVar[str] = "one channel for the offset"
    text: ClassVar[str] = "channel of ones"
    short: ClassVar[str] = "of ones, for the offset"
    op: Literal["ones"] = "ones"
    axis: int
    """The axis of channels."""

    def dims_after(self, spec: TensorSpec) -> Dims:
        return (*spec.dims[: self.axis], spec.dims[self.axis] + 1, *spec.dims[self.axis + 1 :])

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        sizes = (0, 0) * (len(spec.dims) - 1 - self.axis) + (0, 1)
        return graph.put("call_function", F.pad, node, sizes, value=1.0)


class Channels(BaseOperation):
    """Read other image channels: by changed weights of the first convolution, or mixed before it.

    The response to a grey image, the same in all channels, stays the same.
    """

    says: ClassVar[str] = "first layer reads others"
    converts: ClassVar[Conversion | None] = "channels"
    op: Literal["channels"] = "channels"
    source: int
    """The number of channels of the given image."""
    target: int
    """The number of channels that the module reads."""
    stem: str
    """Path of the convolution; empty where channels are mixed in front of the module."""
    given: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    """The names of the given channels, where the caller told them."""
    wanted: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    """The names of the channels that the module reads."""

    @model_validator(mode="after")
    def _as_many_names(self) -> Channels:
        if self.given and (len(self.given), len(self.wanted)) != (self.source, self.target):
            raise ValueError("as many names of channels as there are channels")
        try:
            told = channel_names(self.given or ("other",)), channel_names(self.wanted or ("other",))
        except SignatureError as error:
            raise ValueError(error.summary) from None
        if told != (self.given or ("other",), self.wanted or ("other",)):
            raise ValueError("names of channels as they are compared")
        return self

    @property
    def met(self) -> list[int]:
        """For each given channel the index of the module's channel that it takes the place of; -1 for none.

        By name, repeated names in turn. Without names in order, repeatedly where their number is a multiple, as for
        several images; further channels have none. One or two channels in place of three or more have none, either.

        Example:
            >>> Channels(source=4, target=3, stem="", given=tuple("bgr") + ("nir",), wanted=tuple("rgb")).met
            [2, 1, 0, -1]
            >>> [Channels(source=count, target=3, stem="").met for count in (1, 4, 6)]
            [[-1], [0, 1, 2, -1], [0, 1, 2, 0, 1, 2]]
        """
        if self.given:
            return met_by_name(self.given, self.wanted)
        if self.source < min(self.target, 3):
            return [-1] * self.source
        are_many = self.source % self.target == 0 or self.source >= FEATURE_CHANNELS
        return [i % self.target if i < self.target or are_many else -1 for i in range(self.source)]

    def __str__(self) -> str:
        given, wanted = self._shown
        return f"{self.stem} reads {given}, not {wanted}" if self.stem else f"{given} -> {wanted}"

    @property
    def label(self) -> str:
        return ", not ".join(self._shown)

    @property
    def _shown(self) -> tuple[str, str]:
        """The given channels and those that the module reads, as text: their names or their number."""
        if self.given:
            return ", ".join(self.given), ", ".join(self.wanted)
        return f"{self.source} channels", f"{self.target}"

    def dims_after(self, spec: TensorSpec) -> Dims:
        return _mapped(self, spec, 1)

    def multiply_adds(self, spec: TensorSpec, sizes: Mapping[str, int]) -> int:
        return 0 if self.stem else values_in(self.gives(spec), sizes) * self.source

    def stays_contiguous(self, before: bool) -> bool:
        return before or not self.stem

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        if self.stem:
            return node  # the backbone's own weights were changed
        return graph.put("call_function", layers.mix_channels, node, self.met, self.target)


class Native(BaseOperation):
    """Images are read at their own size, by a view of the module that was changed for that."""

    says: ClassVar[str] = "reads images at their own size"
    text: ClassVar[str] = "native: {sizes.what}"
    short: ClassVar[str] = "{sizes.what}"
    keeps_memory: ClassVar[bool] = True
    op: Literal["native"] = "native"
    sizes: NativeSizes

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        return node  # the view was changed


class Renormalize(BaseOperation):
    """Convert images, `[B, C, *spatial]`, to another normalisation: mean, standard deviation, range, order of colours.

    It is not folded into the first convolution, even where that would be exact. Folding needs weights that are no
    longer shared with the new module, and loading a checkpoint of that module would silently undo it. It costs one
    multiply-add for each value.
    """

    says: ClassVar[str] = "other mean, range, order"
    converts: ClassVar[Conversion | None] = "statistics"
    text: ClassVar[str] = "{given} -> {wanted}"
    op: Literal["renormalize"] = "renormalize"
    given: Statistics
    wanted: Statistics

    def numbers(self, channels: int) -> tuple[list[float], list[float], bool]:
        """Factor and offset of each channel of the result, and whether the channels are reversed before."""
        return *conversion(self.given, self.wanted, channels), self.given.order != self.wanted.order

    def dims_after(self, spec: TensorSpec) -> Dims:
        channels = spec.dims[1].constant if len(spec.dims) > 1 else None
        turned = self.given.order != self.wanted.order
        told = {self.given.channels, self.wanted.channels} - {None, channels}
        if channels is None or (turned and channels != 3) or told:
            raise self.refused(spec, "as many channels on axis 1 as the statistics tell of")
        return spec.dims

    def multiply_adds(self, spec: TensorSpec, sizes: Mapping[str, int]) -> int:
        return values_in(self.gives(spec), sizes)

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        numbers = self.numbers(spec.dims[1].constant or 3)
        return graph.put("call_function", layers.renormalize, node, *numbers)


def _mapped(step: Project | Channels, spec: TensorSpec, axis: int, groups: int = 1) -> Dims:
    """The dims after a map of the channels on an axis, or after several maps side by side."""
    dims = spec.dims
    if len(dims) <= axis or dims[axis] != step.source * groups:
        raise step.refused(spec, f"{step.source * groups} channels on axis {axis}")
    return (*dims[:axis], Dim(step.target * groups), *dims[axis + 1 :])
