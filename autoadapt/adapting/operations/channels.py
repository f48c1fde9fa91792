"""Channels: learned maps of them, and which values of images are read, in which statistics."""

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

__all__ = ["FEATURE_CHANNELS", "Channels", "Native", "Ones", "Project", "Projecting", "Renormalize"]

Projecting: TypeAlias = Literal["needed", "always", "places"]
"""Which features go through a projection: where the channels differ; all; all, with a map for each of a few places."""
FEATURE_CHANNELS = 16
"""What has as many channels or more is no image, nor a stack of a few."""


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
    """How many maps stand side by side, each from `source` channels to `target` of its own: one for each place."""

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
    """One more channel, of ones: it carries the offset of a projection to where borders are padded."""

    says: ClassVar[str] = "one channel for the offset"
    text: ClassVar[str] = "channel of ones"
    short: ClassVar[str] = "of ones, for the offset"
    op: Literal["ones"] = "ones"
    axis: int
    """Which axis holds channels."""

    def dims_after(self, spec: TensorSpec) -> Dims:
        return (*spec.dims[: self.axis], spec.dims[self.axis] + 1, *spec.dims[self.axis + 1 :])

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        sizes = (0, 0) * (len(spec.dims) - 1 - self.axis) + (0, 1)
        return graph.put("call_function", F.pad, node, sizes, value=1.0)


class Channels(BaseOperation):
    """Read other image channels: by the weights of the first convolution, or mixed before it.

    The response to an image that is the same in all channels is kept.
    """

    says: ClassVar[str] = "first layer reads others"
    converts: ClassVar[Conversion | None] = "channels"
    op: Literal["channels"] = "channels"
    source: int
    """Channels that are given."""
    target: int
    """Channels that the module was made for."""
    stem: str
    """Path of the convolution; empty where channels are mixed in front of the module."""
    given: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    """What is in the channels that are given, where that is told."""
    wanted: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    """What is in those that the module was made for."""

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
        """For each given channel the one of the module's that it meets; -1 for none.

        By name, each occurrence of a name the next one. Where no names are told, in order, over and over where that
        comes out even, as for several images; what is left over meets none, nor do two channels that were three.

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
        """The channels that are given and those that the module was made for, by name where they are told."""
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
    """Images are read at their own size: the view of the module is freed of the size that it was built for."""

    says: ClassVar[str] = "reads images at their own size"
    text: ClassVar[str] = "native: {sizes.what}"
    short: ClassVar[str] = "{sizes.what}"
    keeps_memory: ClassVar[bool] = True
    op: Literal["native"] = "native"
    sizes: NativeSizes

    def node(self, node: fx.Node, spec: TensorSpec, graph: Writer) -> fx.Node:
        return node  # the view was changed


class Renormalize(BaseOperation):
    """Values of images, `[B, C, *spatial]`, in other statistics: mean, spread, range and order of colours.

    It stands in the graph and is not folded into the first convolution, also where that pads nothing and it could be
    exact: that would need weights of its own, which training would share no longer with the new module, and which a
    checkpoint of that module, of the same names and shapes, would undo unseen. It costs one multiply-add a value.
    """

    says: ClassVar[str] = "other mean, range, order"
    converts: ClassVar[Conversion | None] = "statistics"
    text: ClassVar[str] = "{given} -> {wanted}"
    op: Literal["renormalize"] = "renormalize"
    given: Statistics
    wanted: Statistics

    def numbers(self, channels: int) -> tuple[list[float], list[float], bool]:
        """Factor and offset of each channel as it comes out, and whether the order of the channels is turned before."""
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
    """The dims of what comes out of a map of channels, or of as many side by side."""
    dims = spec.dims
    if len(dims) <= axis or dims[axis] != step.source * groups:
        raise step.refused(spec, f"{step.source * groups} channels on axis {axis}")
    return (*dims[:axis], Dim(step.target * groups), *dims[axis + 1 :])
