"""Strategies: signatures, backbones and legal inputs for hypothesis, which has to be installed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import Any, Literal, TypeAlias, get_args

import torch
from hypothesis import strategies as st
from torch import nn

from autoadapt.contracts.allocations import bytes_of
from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.instances import is_whole, not_a_module
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.signature import AxisSizes, Mask, Signature, TensorSpec, first_legal, mask_at, range_at
from autoadapt.contracts.trees import rebuild
from autoadapt.errors import Mismatch, SignatureError, nearest

Kind: TypeAlias = Literal["images", "sequences", "points", "masks"]
Levels: TypeAlias = list[torch.Tensor] | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]

_STEPS = 40
"""How many of the smallest legal sizes of an axis every second size is drawn from."""
_BEYOND = 4
"""How many times the size of the example the others may be."""
_AT_LEAST = 320
"""What they may be however small the example is: the usual 224 and 256 are among them."""
_MOST_BYTES = 1 << 23
"""Of the inputs of one call; the others stay smaller where these would take more, though not below the example."""


def inputs_of(signature: Signature, *, batches: int = 3, largest: int | None = None) -> st.SearchStrategy[Any]:
    """Legal inputs of a signature: sizes, batches and values by role; a failure shrinks to the smallest sizes.

    Each axis has one of its 40 smallest legal sizes, or one of all up to four times the captured size, and at least to
    320; less where the inputs of a call would take more than 8 MiB, though not below the captured size. So images of
    64 pixels go to 320, those of 224 to 448. What is wrong beyond is not found. The smallest legal
    images are those at which every output has a cell, unless `capture` saw such refused.
    Integers that may be indices into another input stay below its size.

    Args:
        signature: What is called.
        batches: The largest batch.
        largest: The largest size of an axis, in place of those above; where no legal one is so small, the smallest.

    Returns:
        What `inputs=` takes: a tensor, a tuple of positional or a dict of keyword arguments.

    Raises:
        SignatureError: It is no signature, or `batches` or `largest` is no positive integer.
    """
    if not isinstance(signature, Signature):
        raise not_a_module(signature, "signature", SignatureError, "a Signature")
    asked = {"batches": batches, "largest": 1 if largest is None else largest}
    faults = [
        Mismatch(f"`{name}`", "a positive integer", repr(value), f"{name}=1")
        for name, value in asked.items()
        if not is_whole(value, 1)
    ]
    if faults:
        raise SignatureError("no inputs can be drawn", faults)
    return _inputs_of(signature, batches, _largest(signature, batches, largest))


def _largest(signature: Signature, batches: int, asked: int | None) -> dict[str, int]:
    """The largest size of each axis that is drawn."""
    axes = {name: axis for name, axis in signature.axes.items() if name != "B"}
    if asked is not None:
        return dict.fromkeys(axes, asked)
    sizes = {name: max(_BEYOND * axis.example, _AT_LEAST) if axis.step else axis.example for name, axis in axes.items()}
    while bytes_of(signature.inputs.leaves, {"B": batches, **sizes}) > _MOST_BYTES:
        smaller = {name: max(size // 2, axes[name].example) for name, size in sizes.items()}
        if smaller == sizes:
            break
        sizes = smaller
    return sizes


@st.composite
def _inputs_of(draw: st.DrawFn, signature: Signature, batches: int, largest: dict[str, int]) -> Any:
    largest = {**largest, "B": batches}
    dims = [dim for spec in signature.outputs.leaves for dim in spec.dims]
    first = {name: first_legal(name, signature.axes, dims) for name in signature.axes}
    sizes = {name: draw(_sizes(name, axis, first[name], largest[name])) for name, axis in signature.axes.items()}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    tensors = [_values(path, spec, sizes, signature, generator) for path, spec in signature.inputs.items()]
    values = rebuild(signature.inputs.tree, tensors)
    if signature.positional == 0:
        return values
    if signature.positional < len(values):
        return Arguments(values, signature.positional)
    found = tuple(values.values())
    return found[0] if len(found) == 1 else found


def _sizes(name: str, axis: AxisSizes, first: int, largest: int) -> st.SearchStrategy[int]:
    if axis.step == 0:
        return st.just(axis.example)
    if name == "B":
        return st.integers(1, largest)
    most = max((largest - first) // axis.step, 0)
    near, all_of_them = st.integers(0, min(max(_STEPS // axis.step, 3), most)), st.integers(0, most)
    return st.one_of(near, all_of_them).map(lambda count: first + count * axis.step)


def _values(
    path: str, spec: TensorSpec, sizes: dict[str, int], signature: Signature, generator: torch.Generator
) -> torch.Tensor:
    """Values that the role allows: features and coordinates of unit scale, integers as they were seen."""
    shape = spec.shape(sizes)
    if (mask := mask_at(signature.masks, path)) is not None:
        least = mask.least(signature.axes, signature.outputs.leaves, sizes)
        return mask.example(shape, sizes[mask.axis], spec.torch_dtype, generator, least=least)
    if spec.is_floating:
        return torch.randn(shape, generator=generator).to(spec.torch_dtype)
    if spec.dtype == "bool":
        return torch.rand(shape, generator=generator) < 0.5
    low, high = range_at(signature.value_ranges.get(path, (0, 1)), signature.axes, sizes, spec.dims)
    return torch.randint(low, high + 1, shape, generator=generator).to(spec.torch_dtype)


def signatures(*, levels: int = 4, kinds: Sequence[Kind] = ("images",)) -> st.SearchStrategy[Signature]:
    """Signatures of backbones: up to some levels of falling resolution, in a list, a tuple or a dict.

    Args:
        levels: The most that are drawn.
        kinds: What goes in: `images`; `sequences`, where a mask of the steps that count comes out; `masks`, sequences
            with such a mask as a second input; or `points`, with the coordinates of those that are kept.

    Raises:
        SignatureError: There is no such kind, or no level.
    """
    return _signatures(levels, _checked(kinds, levels))


def _checked(kinds: Sequence[Kind], levels: int) -> list[Kind]:
    named: list[Any] = [kinds] if isinstance(kinds, str) else list(kinds)
    known = ", ".join(get_args(Kind))
    remedy = f"kinds={(nearest(str(named[0]), get_args(Kind), count=1) if named else []) or ['images']}"
    faults = [Mismatch("`kinds`", known, repr(one), remedy) for one in named if one not in get_args(Kind)]
    faults += [] if named else [Mismatch("`kinds`", f"at least one of {known}", "none", remedy)]
    faults += [] if levels >= 1 else [Mismatch("`levels`", "at least 1", str(levels), "levels=1")]
    if faults:
        raise SignatureError("nothing can be drawn of such a kind", faults)
    return named


@st.composite
def _signatures(draw: st.DrawFn, levels: int, kinds: list[Kind]) -> Signature:
    kind = draw(st.sampled_from(kinds))
    if kind == "points":
        return _of_points(draw(st.integers(1, 64)), draw(st.integers(1, 8)))
    strides = sorted(draw(st.lists(st.sampled_from([1, 2, 4, 8, 16, 32]), min_size=1, max_size=levels, unique=True)))
    is_image = kind == "images"
    leaves = [draw(_maps(stride) if is_image else _steps(stride)) for stride in strides]
    if not is_image:
        leaves.append(TensorSpec.parse(f"bool[B, ceil(T/{strides[-1]})]"))
    named = {f"c{i + 2}": leaf for i, leaf in enumerate(leaves)}
    outputs = draw(st.sampled_from([leaves, tuple(leaves), named]))
    inputs = {"x": "f32[B, 3, H, W]" if is_image else "f32[B, T, 3]"}
    inputs |= {"mask": "bool[B, T]"} if kind == "masks" else {}
    found = Signature.parse(outputs, inputs=inputs, name="drawn")
    return found.model_copy(update={"masks": (Mask(argument="mask", axis="T"),)}) if kind == "masks" else found


def _of_points(channels: int, kept: int) -> Signature:
    outputs = {"features": f"f32[B, {kept}, {channels}]", "xyz": f"f32[B, {kept}, 3] coordinate"}
    axes = {"N": AxisSizes(example=64, smallest=kept), "B": AxisSizes(example=2)}
    return Signature.parse(outputs, inputs={"cloud": "f32[B, N, 3] coordinate"}, name="drawn", axes=axes)


@st.composite
def _maps(draw: st.DrawFn, stride: int) -> TensorSpec:
    """One level: channels first, channels last or tokens, its sizes rounded up or down."""
    channels = Dim(draw(st.integers(1, 64)))
    up = draw(st.booleans())
    height, width = (axis.ceildiv(stride) if up else axis // stride for axis in map(Dim.axis, ("H", "W")))
    layouts = [(channels, height, width), (height, width, channels), (height * width, channels)]
    return TensorSpec(dtype="f32", dims=(Dim.axis("B"), *draw(st.sampled_from(layouts))))


@st.composite
def _steps(draw: st.DrawFn, stride: int) -> TensorSpec:
    """One level of a sequence: its channels last."""
    return TensorSpec.parse(f"f32[B, ceil(T/{stride}), {draw(st.integers(1, 64))}]")


class SmallBackbone(nn.Module):
    """Strided convolutions, one a level; returns all levels.

    Shape:
        `[B, 3, H, W]` -> for each level `[B, width, ceil(H/stride), ceil(W/stride)]`
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int], container: str) -> None:
        super().__init__()
        pairs = zip((3, *widths), widths, strides, strict=False)
        self.stages = nn.ModuleList(nn.Conv2d(source, target, 1, stride=stride) for source, target, stride in pairs)
        self.container = container

    def forward(self, x: torch.Tensor) -> Levels:
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return contained(levels, self.container)


class SmallSequenceBackbone(nn.Module):
    """Strided convolutions along a sequence, one a level; returns all levels, and which steps of the last count.

    Shape:
        `[B, T, 3]` -> for each level `[B, ceil(T/stride), width]`, and bool `[B, ceil(T/stride)]`
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int], container: str) -> None:
        super().__init__()
        pairs = zip((3, *widths), widths, strides, strict=False)
        self.stages = nn.ModuleList(nn.Conv1d(source, target, 1, stride=stride) for source, target, stride in pairs)
        self.container = container

    def forward(self, x: torch.Tensor) -> Levels:
        levels = []
        x = x.transpose(1, 2)
        for stage in self.stages:
            x = stage(x)
            levels.append(x.transpose(1, 2))
        return contained([*levels, levels[-1].sum(2) > 0], self.container)


class SmallMaskedBackbone(nn.Module):
    """A `SmallSequenceBackbone` for steps of which a mask, true at what counts, hides some: these come out as zeros.

    Shape:
        `[B, T, 3]`, bool `[B, T]` -> for each level `[B, ceil(T/stride), width]`, and bool `[B, ceil(T/stride)]`
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int], container: str) -> None:
        super().__init__()
        self.steps, self.container = SmallSequenceBackbone(widths, strides, "list"), container
        self.strides = list(accumulate(strides, mul))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> Levels:
        masks = [mask[:, ::stride] for stride in self.strides]
        levels = [level * kept[..., None] for level, kept in zip(self.steps(x), masks, strict=False)]
        return contained([*levels, masks[-1]], self.container)


class SmallPointBackbone(nn.Module):
    """The first points of a cloud with features of their own.

    Shape:
        `[B, N, 3]` -> features `[B, kept, width]`, xyz `[B, kept, 3]`
    """

    def __init__(self, width: int, kept: int) -> None:
        super().__init__()
        self.linear, self.kept = nn.Linear(3, width), kept

    def forward(self, cloud: torch.Tensor) -> dict[str, torch.Tensor]:
        xyz = cloud[:, : self.kept]
        return {"features": self.linear(xyz), "xyz": xyz}


def contained(levels: list[torch.Tensor], container: str) -> Levels:
    """Levels in a list, a tuple or a dict."""
    if container == "dict":
        return {f"c{i + 2}": level for i, level in enumerate(levels)}
    return tuple(levels) if container == "tuple" else levels


def backbones(*, levels: int = 4, kinds: Sequence[Kind] = ("images",)) -> st.SearchStrategy[nn.Module]:
    """Small backbones in eval mode: up to some levels of random widths and strides, in a random container.

    Args:
        levels: The most that are drawn.
        kinds: What they take, as for `signatures`.

    Raises:
        SignatureError: There is no such kind, or no level.
    """
    return _backbones(levels, _checked(kinds, levels))


@st.composite
def _backbones(draw: st.DrawFn, levels: int, kinds: list[Kind]) -> nn.Module:
    kind = draw(st.sampled_from(kinds))
    if kind == "points":
        return in_eval_mode(SmallPointBackbone(draw(st.integers(1, 16)), draw(st.integers(1, 8))))
    strides = draw(st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=levels))
    widths = [draw(st.integers(1, 16)) for _ in strides]
    made = {"images": SmallBackbone, "sequences": SmallSequenceBackbone, "masks": SmallMaskedBackbone}
    return in_eval_mode(made[kind](widths, strides, draw(st.sampled_from(["list", "tuple", "dict"]))))
