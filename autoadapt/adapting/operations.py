"""Operations: the closed set of things an adapter may do, as data, and what each does to dims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator
from typing_extensions import assert_never

from autoadapt.adapting.counted import Averaging, Counted, Hide, Remask, where_text
from autoadapt.adapting.value_operations import Lead, Restore
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.signature import NativeSizes, Statistics, channel_names, conversion, met_by_name
from autoadapt.errors import SignatureError

__all__ = [
    "FEATURE_CHANNELS",
    "Cast",
    "Channels",
    "Copy",
    "Counted",
    "DropPrefix",
    "Hide",
    "Lead",
    "Mean",
    "Native",
    "Ones",
    "Operation",
    "Pad",
    "Pool",
    "Project",
    "Projecting",
    "Rearrange",
    "Recover",
    "Remask",
    "Renormalize",
    "Resample",
    "Resize",
    "ResizeTokens",
    "Restore",
    "Take",
    "Thin",
    "channels_text",
    "parameters",
    "shown_sizes",
    "text",
]

Dims: TypeAlias = tuple[Dim, ...]
Projecting: TypeAlias = Literal["needed", "always", "places"]
"""Which features go through a projection: where the channels differ; all; all, with a map for each of a few places."""
Thinning: TypeAlias = Literal["farthest", "first", "even", "random", "repeat"]
"""How points are chosen: far from each other, the first, at even steps, at random, or all of them again and again."""


class DropPrefix(MadeByHand):
    """Leave the first entries of an axis out, such as class and register tokens; or the last ones."""

    op: Literal["drop"] = "drop"
    axis: int
    count: int
    at_end: bool = False
    after: int = Field(default=0, exclude_if=lambda after: not after)
    """How many entries before them stay, such as the class token before registers."""


class Take(MadeByHand):
    """The first entry of an axis, which goes away: the class token. Or the last one that counts."""

    op: Literal["take"] = "take"
    axis: int
    last: bool = Field(default=False, exclude_if=lambda last: not last)
    where: Counted | None = Field(default=None, exclude_if=lambda where: where is None)
    """What counts, of the last ones; None where everything does."""


class Rearrange(MadeByHand):
    """Split, permute and merge axes, in einops notation."""

    op: Literal["rearrange"] = "rearrange"
    pattern: str
    sizes: dict[str, Dim] = Field(default_factory=dict)
    """Sizes of the names that a merged axis is split into."""


class Mean(Averaging):
    """Average over axes, which go away."""

    op: Literal["mean"] = "mean"
    axes: tuple[int, ...]


class Pool(Averaging):
    """Average over cells of a fixed size, the last cell of an axis cut short; `[B, C, *spatial]`."""

    op: Literal["pool"] = "pool"
    kernel: tuple[int, ...]
    """One size for each spatial axis."""


class Resize(Averaging):
    """Linear interpolation of the spatial axes to exact sizes; `[B, C, *spatial]`."""

    op: Literal["resize"] = "resize"
    dims: Dims
    """One size for each spatial axis."""


class Resample(Averaging):
    """Spatial axes read at other centres, `[B, C, *spatial]`: cell j lies at `first + j*step` of the cells there are.

    Linear interpolation; where the step is longer than a cell, a mean over a triangle as wide. Beyond the border the
    last cell counts. Whole numbers of cells are exact.
    """

    op: Literal["resample"] = "resample"
    first: tuple[float, ...]
    """Where the first cell lies, in cells of the source, for each spatial axis."""
    step: tuple[float, ...]
    dims: Dims
    """How many cells there are, for each spatial axis."""

    @property
    def picks(self) -> bool:
        """Whether cells are taken as they are."""
        return set(self.step) == {1.0} and all(first.is_integer() for first in self.first)


class ResizeTokens(MadeByHand):
    """Linear interpolation of tokens on their grid, `[B, prefix + cells, C]`; the leading tokens stay as they are."""

    op: Literal["resize tokens"] = "resize tokens"
    prefix: int
    source: Dims
    """The grid, one size for each side."""
    dims: Dims
    """The grid that is wanted."""
    kernel: tuple[int, ...] = ()
    """Cells a side that are averaged before, where there are many more than are wanted."""
    order: tuple[int, ...] = Field(default=(), exclude_if=lambda order: not order)
    """Which side of the grid each wanted side is, where cells stand in another order."""


class Project(MadeByHand):
    """A learned map of channels: a 1x1 convolution on axis 1, or a linear layer on the last axis."""

    op: Literal["project"] = "project"
    form: Literal["conv", "linear"]
    source: int = Field(ge=1)
    target: int = Field(ge=1)
    bias: bool = True
    groups: int = Field(default=1, ge=1, exclude_if=lambda groups: groups == 1)
    """How many maps stand side by side, each from `source` channels to `target` of its own: one for each place."""


class Ones(MadeByHand):
    """One more channel, of ones: it carries the offset of a projection to where borders are padded."""

    op: Literal["ones"] = "ones"
    axis: int
    """Which axis holds channels."""


class Cast(MadeByHand):
    """Another dtype."""

    op: Literal["cast"] = "cast"
    dtype: str


class Copy(MadeByHand):
    """A tensor of its own, since what comes next writes to it."""

    op: Literal["copy"] = "copy"


class Channels(MadeByHand):
    """Read other image channels: by the weights of the first convolution, or mixed before it.

    The response to an image that is the same in all channels is kept.
    """

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


FEATURE_CHANNELS = 16
"""What has as many channels or more is no image, nor a stack of a few."""


class Native(MadeByHand):
    """Images are read at their own size: the view of the module is freed of the size that it was built for."""

    op: Literal["native"] = "native"
    sizes: NativeSizes


class Pad(MadeByHand):
    """Zeros below and to the right, up to exact sizes, so that cells stay where they are; `[B, C, *spatial]`.

    Where a size is below that of the input, what is beyond it is left out: the old module did not read it either.
    """

    op: Literal["pad"] = "pad"
    dims: Dims
    """One size for each spatial axis."""


class Renormalize(MadeByHand):
    """Values of images, `[B, C, *spatial]`, in other statistics: mean, spread, range and order of colours.

    It stands in the graph and is not folded into the first convolution, also where that pads nothing and it could be
    exact: that would need weights of its own, which training would share no longer with the new module, and which a
    checkpoint of that module, of the same names and shapes, would undo unseen. It costs one multiply-add a value.
    """

    op: Literal["renormalize"] = "renormalize"
    given: Statistics
    wanted: Statistics

    def numbers(self, channels: int) -> tuple[list[float], list[float], bool]:
        """Factor and offset of each channel as it comes out, and whether the order of the channels is turned before."""
        return *conversion(self.given, self.wanted, channels), self.given.order != self.wanted.order


class Recover(MadeByHand):
    """For each point its place in an input, where points stand bit for bit: `[B, M, K] -> [B, M]`."""

    op: Literal["recover"] = "recover"
    values: str
    """Path of the input, `[B, N, >= K]`, or `[B, >= K, N]` where its axis 2 lists points."""
    dtype: str
    values_axis: Literal[1, 2] = 1
    """Which axis of the input lists points."""
    points_axis: Literal[1, 2] = 1
    """Which axis of the coordinates lists points."""


class Thin(MadeByHand):
    """Take some points of a set, by one choice for every leaf that lies on it; with `repeat`, some of them twice."""

    op: Literal["thin"] = "thin"
    axis: int
    """Which axis of the leaf lists points."""
    source: int
    count: int
    how: Thinning
    points: str
    """Path of the coordinates among the new module's outputs, `[B, N, K]`, or of any other leaf of the set."""
    points_axis: int = 1
    """Which axis of that leaf lists points."""
    seed: int = 0


Operation: TypeAlias = Annotated[
    DropPrefix
    | Take
    | Rearrange
    | Mean
    | Hide
    | Lead
    | Remask
    | Pool
    | Resize
    | Resample
    | ResizeTokens
    | Restore
    | Project
    | Ones
    | Cast
    | Copy
    | Channels
    | Native
    | Pad
    | Renormalize
    | Recover
    | Thin,
    Field(discriminator="op"),
]


def parameters(operation: Operation) -> int:
    """How many parameters an operation has."""
    match operation:
        case Project(source=source, target=target, bias=bias, groups=groups):
            return groups * (source * target + (target if bias else 0))
        case _:
            return 0


def text(operation: Operation) -> str:
    """An operation in a plan's table.

    Example:
        >>> text(Project(form="conv", source=384, target=64)), text(DropPrefix(axis=1, count=1))
        ('384->64', 'drop 1')
    """
    match operation:
        case DropPrefix(count=count, at_end=at_end, after=after):
            return f"drop last {count}" if at_end else f"drop {count}" + (f" after {after}" if after else "")
        case Take(last=last, where=where):
            return f"last token{where_text(where)}" if last else "class token"
        case Rearrange(pattern=pattern):
            return pattern
        case Mean(axes=axes, where=where):
            return f"mean over {', '.join(map(str, axes))}{where_text(where)}"
        case Hide() | Lead() | Remask() | Restore():
            return str(operation)
        case Pool(kernel=kernel, where=where):
            return f"pool {shown_sizes(kernel)}{where_text(where)}"
        case Resize(dims=dims, where=where):
            return f"resize to {shown_sizes(dims)}{where_text(where)}"
        case Pad(dims=dims):
            return f"pad to {shown_sizes(dims)}"
        case Resample(first=first, step=step, dims=dims, where=where):
            centres = shown_sizes([f"{start:g} + {by:g} j" for start, by in zip(first, step, strict=True)])
            return f"resample to {shown_sizes(dims)} at {centres}{where_text(where)}"
        case ResizeTokens(dims=dims):
            return f"resize tokens to {shown_sizes(dims)}"
        case Project(source=source, target=target, groups=groups):
            return f"{groups} x {source}->{target}" if groups > 1 else f"{source}->{target}"
        case Ones():
            return "channel of ones"
        case Cast(dtype=dtype):
            return f"to {dtype}"
        case Copy():
            return "copy"
        case Channels(stem=stem):
            have, want = channels_text(operation)
            return f"{stem} reads {have}, not {want}" if stem else f"{have} -> {want}"
        case Native(sizes=sizes):
            return f"native: {sizes.what}"
        case Renormalize(given=given, wanted=wanted):
            return f"{given} -> {wanted}"
        case Recover(values=values):
            return f"find in {values}"
        case Thin(source=source, count=count, how=how):
            return f"{source} points, {how} {count}"
        case _:
            assert_never(operation)


def channels_text(step: Channels) -> tuple[str, str]:
    """The channels that are given and those that the module was made for, by name where they are told."""
    if step.given:
        return ", ".join(step.given), ", ".join(step.wanted)
    return f"{step.source} channels", f"{step.target}"


def shown_sizes(sizes: Sequence[object]) -> str:
    """Sizes as a table shows them: once where they are equal."""
    return str(sizes[0]) if len(set(map(str, sizes))) == 1 else " x ".join(map(str, sizes))
