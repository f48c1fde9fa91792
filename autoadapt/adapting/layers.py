"""Layers of adapters beyond torch's own. Standalone source inlines them, so this file imports torch only."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "FlatLinear",
    "channel_shares",
    "choose_points",
    "conv1x1",
    "fill_in",
    "hand_on",
    "larger",
    "least_multiple",
    "linear",
    "mix_channels",
    "mlp",
    "nothing_further",
    "pad",
    "pool",
    "recover_indices",
    "renormalize",
    "resample",
    "resize",
    "spread_channels",
    "take_points",
    "unchanged",
]

# Dimension letters: B batch, C and D channels, M chosen points, N points to choose from, K columns of a point.
# Functions stay below 88 columns: they are inlined into files that other people format.


def linear(source: int, target: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer `[*, source] -> [*, target]` that keeps the variance."""
    layer = nn.Linear(source, target, bias=bias)
    keep_variance_(layer, source)
    return layer


Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d


def conv1x1(
    source: int,
    target: int,
    *,
    spatial: int,
    bias: bool = True,
    groups: int = 1,
) -> Conv:
    """A 1x1 convolution over axes `[B, channels, *spatial]` that keeps the variance."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[spatial - 1]
    layer = kind(source, target, 1, groups=groups, bias=bias)
    keep_variance_(layer, source // groups)
    return layer


def mlp(source: int, hidden: int, target: int, *, spatial: int = 0) -> nn.Sequential:
    """Two linear maps of channels, on the last axis or on axis 1, with a GELU between.

    Shape:
        `[*, source] -> [*, target]`, or `[B, source, *spatial] -> [B, target, *spatial]`
    """
    if spatial:
        first = conv1x1(source, hidden, spatial=spatial)
        second = conv1x1(hidden, target, spatial=spatial)
        return nn.Sequential(first, nn.GELU(), second)
    return nn.Sequential(linear(source, hidden), nn.GELU(), linear(hidden, target))


class FlatLinear(nn.Module):
    """A linear layer over all axes but the batch, flattened; samples never mix.

    Shape:
        `[B, *source] -> [B, *target]`
    """

    def __init__(self, source: tuple[int, ...], target: tuple[int, ...]) -> None:
        super().__init__()
        self.target = target
        self.linear = linear(math.prod(source), math.prod(target))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        flat: torch.Tensor = self.linear(values.flatten(1))
        return torch.unflatten(flat, 1, self.target)

    def extra_repr(self) -> str:
        return f"to {list(self.target)}"


def keep_variance_(layer: nn.Linear | Conv, source: int) -> None:
    """Initialise weights with variance 1/source, and no offset.

    LeCun et al., Efficient BackProp (1998), section 4.6: independent inputs of unit
    variance give outputs of unit variance.
    """
    nn.init.normal_(layer.weight, std=source**-0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def renormalize(
    images: torch.Tensor,
    scale: list[float],
    shift: list[float],
    turned: bool,
) -> torch.Tensor:
    """Each channel times a factor plus an offset; `turned`: channels reversed before.

    The numbers become tensors on the device, with no copy from the CPU, which CUDA
    graphs would not allow. They are in no state dict.

    Shape:
        `[B, C, *spatial] -> [B, C, *spatial]`
    """
    if turned:
        images = images.flip(1)
    if min(scale) == max(scale) and min(shift) == max(shift):
        return images * scale[0] + shift[0]
    axes = [-1] + [1] * (images.dim() - 2)
    factors = torch.stack([images.new_full([], factor) for factor in scale])
    offsets = torch.stack([images.new_full([], offset) for offset in shift])
    return images * factors.view(axes) + offsets.view(axes)


def pad(images: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Zeros at the far end of spatial axes up to exact sizes; larger inputs are cut.

    Shape:
        `[B, C, *spatial] -> [B, C, *sizes]`
    """
    missing: list[int] = []
    for axis in range(len(sizes) - 1, -1, -1):  # torch lists the last axis first
        missing += [0, sizes[axis] - images.shape[axis + 2]]
    return F.pad(images, missing)


def resize(values: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Linear interpolation of the spatial axes to exact sizes.

    Shape:
        `[B, C, *spatial] -> [B, C, *sizes]`
    """
    mode = ["linear", "bilinear", "trilinear"][len(sizes) - 1]
    return F.interpolate(values, sizes, mode=mode, align_corners=False)


def resample(
    values: torch.Tensor,
    first: list[float],
    step: list[float],
    sizes: list[int],
) -> torch.Tensor:
    """Read the spatial axes at given centres: cell j at `first + j*step`.

    Linear interpolation; where a step is longer than a cell, a triangle filter of that
    width, as in antialiased resizing. Centres beyond the border are moved to it. Where
    all centres are those of cells, the cells are only selected.

    Shape:
        `[B, C, *spatial] -> [B, C, *sizes]`
    """
    for axis, size in enumerate(sizes, 2):
        start, by = first[axis - 2], step[axis - 2]
        cells = torch.arange(values.shape[axis], device=values.device)
        wanted = start + by * torch.arange(size, device=values.device)
        wanted = torch.minimum(wanted.clamp(min=0), cells[-1:])
        if by == 1 and start == round(start):
            values = values.index_select(axis, wanted.long())
            continue
        away = (cells[:, None] - wanted).abs()
        weights = (1 - away / max(by, 1.0)).clamp(min=0)
        weights = (weights / weights.sum(0)).to(values.dtype)
        values = (values.movedim(axis, -1) @ weights).movedim(-1, axis)
    return values


def larger(size: int, least: int) -> int:
    """The larger of a size and a bound, in a form that torch exports and scripts."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return max(size, least)
    if isinstance(size, torch.Tensor):  # in torch.jit.trace sizes are tensors
        return size.clamp(min=least)
    symbol: Any = torch.sym_max(size, least)
    made: int = symbol
    return made


def least_multiple(size: int, step: int) -> int:
    """The least multiple of a step that is not below a size.

    Found by counting: a tracer then gets a plain number, and makes a program for each
    multiple, instead of a symbolic size about which it cannot prove anything.
    """
    multiple = step
    while multiple < size:
        multiple += step
    return multiple


def pool(values: torch.Tensor, kernel: list[int]) -> torch.Tensor:
    """Average pooling of the spatial axes, where the last window may be smaller.

    Shape:
        `[B, C, *spatial] -> [B, C, *(ceil(size / kernel))]`
    """
    if len(kernel) == 1:
        return F.avg_pool1d(values, kernel, ceil_mode=True, count_include_pad=False)
    flat = values.flatten(1, -3)  # torch refuses clips that are smaller than the kernel
    planes = F.avg_pool2d(flat, kernel[-2:], ceil_mode=True, count_include_pad=False)
    if len(kernel) == 2:
        return planes
    frames = torch.unflatten(planes, 1, values.shape[1:3])
    if kernel[0] == 1:
        return frames
    lines = frames.movedim(2, -1).flatten(1, 3)
    rows = F.avg_pool1d(lines, kernel[:1], ceil_mode=True, count_include_pad=False)
    cells = [values.shape[1], frames.shape[3], frames.shape[4]]
    return torch.unflatten(rows, 1, cells).movedim(-1, 2)


def channel_shares(met: list[int], channels: int) -> list[list[float]]:
    """The weight of each given channel (columns) in each channel of a module (rows).

    `met` has the module's channel for each given one. A channel without one (-1) counts
    as their mean. Rows sum to one, so that grey stays grey.
    """
    others, known = met.count(-1), sum([min(met.count(c), 1) for c in range(channels)])
    most = min(1.0, channels / (known + others))
    shares: list[list[float]] = []
    for c in range(channels):
        count = met.count(c)
        own = most / max(count, 1)
        rest = (1.0 - own * count) / (others if others > 0 else len(met))
        left = [rest if one == -1 or others == 0 else 0.0 for one in met]
        row = [left[i] + (own if met[i] == c else 0.0) for i in range(len(met))]
        shares.append(row)
    return shares


def spread_channels(weight_DCk: torch.Tensor, met: list[int]) -> torch.Tensor:
    """The weight of a convolution for other input channels, see `channel_shares`.

    Shape:
        `[D, C, *kernel] -> [D, len(met), *kernel]`
    """
    shares = weight_DCk.new_tensor(channel_shares(met, weight_DCk.shape[1]))
    return torch.einsum("dc...,cn->dn...", weight_DCk, shares)


def mix_channels(images: torch.Tensor, met: list[int], channels: int) -> torch.Tensor:
    """Images of the channels that a module reads, see `channel_shares`.

    Shape:
        `[B, len(met), *spatial] -> [B, channels, *spatial]`
    """
    given = images.unbind(1)
    mixed: list[torch.Tensor] = []
    for row in channel_shares(met, channels):
        total = given[row.index(max(row))]
        if max(row) < 1.0:
            total = torch.zeros_like(total)
            for i in range(len(row)):
                total = total + given[i] * row[i]
        mixed.append(total)
    return torch.stack(mixed, 1)


def recover_indices(
    points_BMK: torch.Tensor,
    values_BNK: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """For each point the index of the first row of the values that equals it exactly.

    Shape:
        points `[B, M, K]`, values `[B, N, >= K]` -> `[B, M]`

    Raises:
        ValueError: A point is no row of the values; not checked in compiled code.
    """
    rows_BNK = values_BNK[..., : points_BMK.shape[-1]]
    found, exact = [], []
    for part_BmK in torch.split(points_BMK, 256, dim=1):  # to limit memory
        same_BmN = (part_BmK.unsqueeze(2) == rows_BNK.unsqueeze(1)).all(-1)
        found.append(same_BmN.int().argmax(-1))
        exact.append(same_BmN.any(-1))
    if not torch.compiler.is_compiling() and not bool(torch.cat(exact, dim=1).all()):
        raise ValueError(
            "a coordinate is no row of the input, so its index cannot be recovered",
        )
    return torch.cat(found, dim=1).to(dtype)


def fill_in(argument: dict[str, Any] | None, made: dict[str, Any]) -> dict[str, Any]:
    """Add outputs to a dict of the caller's; return them if it is empty or missing."""
    if not argument:
        return made
    argument.update(made)
    return argument


def unchanged(name: str, value: Any, *expected: Any) -> None:
    """Refuse an argument that nothing reads, unless it is one of those expected."""
    if not any(type(value) is type(one) and value == one for one in expected):
        raise ValueError(
            f"{name} was {expected[0]!r} when this module was adapted, and another "
            f"{name} would be ignored: leave it so, or adapt it again with inputs that hold the other {name}"
        )


def nothing_further(given: dict[str, Any], flags: dict[str, bool]) -> None:
    """Refuse keyword arguments that would change something; flags must stay."""
    for name, value in given.items() if isinstance(given, dict) else ():
        off = [False] if flags.get(name) is False else []
        unchanged(name, value, *([True] if flags.get(name) else [None, *off]))


def hand_on(name: str, value: Any, *expected: Any) -> Any:
    """An argument that is a tensor, another number, or one of the values expected."""
    numbers = (int, float)
    both = type(value) in numbers and type(expected[0]) in numbers
    if not (both or isinstance(value, torch.Tensor)):
        unchanged(name, value, *expected)
    return value


def choose_points(
    points: torch.Tensor,
    count: int,
    how: str,
    axis: int = 1,
    seed: int = 0,
) -> torch.Tensor:
    """The indices of some of N points.

    `farthest` chooses the first point, and then repeatedly the one farthest from those
    chosen (Eldar et al., The farthest point strategy for progressive image sampling,
    1997).

    Shape:
        `[B, N, K]`, or N at another axis where values do not matter -> `[B, count]`
    """
    batch, size, device = points.shape[0], points.shape[axis], points.device
    if how == "farthest":
        return _farthest(points.detach(), count)
    if how == "random":
        mixed = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        chosen = mixed[:count].sort().values.to(device)
    else:
        steps = torch.arange(count, device=device)
        ways = {"first": steps, "even": steps * size // count, "repeat": steps % size}
        chosen = ways[how]
    return chosen.expand(batch, -1)


def _farthest(points_BNK: torch.Tensor, count: int) -> torch.Tensor:
    nearest_BN = torch.full_like(points_BNK[..., 0], float("inf"))
    chosen = [torch.zeros_like(points_BNK[:, 0, 0], dtype=torch.int64)]
    for _ in range(count - 1):
        last_B1K = take_points(points_BNK, chosen[-1][:, None], 1)
        nearest_BN = torch.minimum(nearest_BN, (points_BNK - last_B1K).square().sum(-1))
        chosen.append(nearest_BN.argmax(1))
    return torch.stack(chosen, dim=1)


def take_points(
    values: torch.Tensor,
    choice_BM: torch.Tensor,
    axis: int,
) -> torch.Tensor:
    """The chosen entries of an axis, separately for each sample.

    Shape:
        `[B, ..., N, ...] -> [B, ..., M, ...]`
    """
    shape = [1] * values.dim()
    shape[0], shape[axis] = choice_BM.shape
    wanted = list(values.shape)
    wanted[axis] = choice_BM.shape[1]
    return values.gather(axis, choice_BM.reshape(shape).expand(wanted))
