"""Levels: what a module returns, as feature maps with a stride and channels, whatever their layout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from autoadapt.adapting.layouts import Factored, factored
from autoadapt.adapting.taps import block_boundaries
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Signature, TensorSpec


@dataclass(frozen=True)
class Level:
    """One tensor that a module gives.

    Args:
        path: Where it stands among the outputs, or the name of the inner module that returns it.
        spec: What it is as given.
        natural: What it is as parts expect it: a map `[B, C, H', W']`, else as given.
        stride: Input pixels per cell; none for what is no map.
        channels: Size of its channel axis, where it has one.
        is_tap: Whether it comes from inside the module.
        octave: What it is also called, `c4` for stride 2^4; empty where its path is its only name.
    """

    path: str
    spec: TensorSpec
    natural: TensorSpec
    stride: Fraction | None
    channels: int | None
    is_tap: bool = False
    octave: str = ""

    @property
    def name(self) -> str:
        """What configs call it."""
        return self.octave or self.path


def levels_of(signature: Signature) -> list[Level]:
    """The levels of a module: its outputs, or where none is a map, what its blocks return inside.

    Of several at one stride the last counts, so those that the module lists itself come last.
    """
    outputs = [_level(path, spec) for path, spec in signature.outputs.items()]
    last = {level.octave: level for level in outputs}  # of several at one stride only the last is called by it
    outputs = [level if last[level.octave] is level else replace(level, octave="") for level in outputs]
    if any(level.stride for level in outputs) or not signature.inner:
        return outputs
    found = sorted(block_boundaries(signature.inner, signature.sizes()), key=lambda tap: tap.listed)
    taps = [_level(tap.name, tap.spec, is_tap=True) for tap in found]
    return [*outputs, *distinct(tap for tap in taps if tap.stride)]


def _level(path: str, spec: TensorSpec, *, is_tap: bool = False) -> Level:
    parts = factored(spec)
    constants = [int(atom.dim.constant or 0) for atoms in parts.atoms for atom in atoms if not atom.kind]
    channels = constants[0] if len(constants) == 1 else None
    stride = stride_of(spec) if spec.is_floating and not spec.same_as.startswith("inputs.") else None
    if stride is None or channels is None:
        return Level(path, spec, spec, None, channels_of(spec), is_tap)
    return Level(path, spec, _natural(spec, parts, channels), stride, channels, is_tap, octave_of(stride))


def octave_of(stride: Fraction) -> str:
    """The name of a stride that is a power of two, as detectors use it.

    Example:
        >>> octave_of(Fraction(16)), octave_of(Fraction(14))
        ('c4', '')
    """
    octave = math.log2(stride)
    return f"c{int(octave)}" if octave >= 0 and octave == int(octave) else ""


def _natural(spec: TensorSpec, parts: Factored, channels: int) -> TensorSpec:
    spatial = {next(iter(atom.kind)): atom.dim for atoms in parts.atoms for atom in atoms if atom.kind}
    axes = [axis for axis in spatial if axis != "B"]
    dims = (Dim.axis("B"), Dim(channels), *(spatial[axis] for axis in sorted(axes)))
    return spec if spec.dims == dims else spec.with_dims(dims).model_copy(update={"same_as": ""})


def stride_of(spec: TensorSpec) -> Fraction | None:
    """Input pixels per cell along every spatial axis; none where there is no such axis, or they differ."""
    strides = set(factored(spec).strides.values())
    return strides.pop() if len(strides) == 1 else None


def channels_of(spec: TensorSpec) -> int | None:
    """The channels of what a part is given: axis 1 of maps and vectors, the last axis of `[B, N, C]`."""
    if len(spec.dims) < 2:
        return None
    axis = 2 if len(spec.dims) == 3 and spec.dims[2].constant is not None else 1
    return spec.dims[axis].constant


def distinct(levels: Iterable[Level]) -> list[Level]:
    """One level for each stride, the deepest, from fine to coarse."""
    by_stride = {level.stride: level for level in levels if level.stride is not None}
    return sorted(by_stride.values(), key=lambda level: level.stride or 0)


def coarsest(levels: Sequence[Level]) -> Level | None:
    """The level that a part gets which asks for one: the coarsest map, else the last of all."""
    maps = distinct(levels)
    return maps[-1] if maps else levels[-1] if levels else None


def nearest_level(levels: Sequence[Level], stride: int) -> Level | None:
    """The level to make one of another stride from: the nearest in octaves, the finer of two."""
    maps = distinct(levels)
    return min(maps, key=lambda level: abs(math.log2((level.stride or 1) / stride)), default=None)


def with_stride(level: Level, stride: int) -> TensorSpec:
    """What a level would be at another stride."""
    if level.stride == stride:
        return level.natural
    axes = sorted({axis for dim in level.natural.dims[2:] for axis in dim.axes})
    dims = (*level.natural.dims[:2], *(Dim.axis(axis).ceildiv(stride) for axis in axes))
    return level.natural.with_dims(dims).model_copy(update={"same_as": ""})


def cells(spec: TensorSpec, sizes: Mapping[str, int]) -> str:
    """The cells of a map at given sizes of the input, such as `7x7`."""
    return "x".join(str(size) for size in spec.shape(sizes)[2:]) if stride_of(spec) else ""
