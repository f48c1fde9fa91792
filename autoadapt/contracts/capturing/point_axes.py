"""Point axes: which axis of a tensor of fixed sizes lists points, measured in one small real run.

The sizes of `[B, 256, 256]` do not tell which axis lists points, nor those of `[B, 128, 256]` how many there are. Parts
of a cloud are moved a little, one after the other: along an axis of points each part changes other entries, along an
axis of channels the same ones. The same works for tokens of a module that takes sequences of one length only, with
parts of its frames or of its frequency bands.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.devices import is_dear
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.inner_leaves import InnerKey
from autoadapt.contracts.capturing.ordering import is_block, listen
from autoadapt.contracts.capturing.probing import Work
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.leaves import READ
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import eval_copy

# Dimension letters: R clouds (the first one, and one for each part that is moved), N points, K columns of a point.
Key: TypeAlias = InnerKey | int
"""An inner output, or the number of an output of the whole."""

PARTS = 3
CLOUDS = 1 + PARTS
"""The batch size of the run: one cloud, and one for each part that is moved."""
MOVED = 1e-3
"""How far points are moved, in standard deviations of a column: so little that the module samples the same ones."""
CHANGED = 1.0
"""How far frames are changed, which are not sampled: so much that half precision shows it."""
POINT = {3, 4, 6}
"""Columns of a point: xyz, with intensity, with normals."""
CLEAR = 0.8
"""How similar the changes by different parts may be along the axis of points, relative to the other axis."""

SAME = 0.75
"""How similar, as a cosine, the changes by different channels must be along an axis of frames."""
WEAK = 0.3
"""The least change of a frame, relative to the median of all."""
APART = 0.6
"""How similar, as a cosine, the changes by different parts may be along the axis of points."""


def untold(dims: Mapping[Any, Sequence[Dim]], batch: Dim) -> list[Key]:
    """Tensors with two fixed axes behind the batch, where the sizes of coordinates do not show which lists points.

    Example:
        >>> read = lambda *shape: [Dim.axis("B"), *map(Dim, shape)]
        >>> untold({0: read(16, 3), 1: read(8, 16), 2: read(16, 16), 3: read(8, 24)}, Dim.axis("B"))
        [2, 3]
    """
    fixed = {key: sizes for key, leaf in dims.items() if (sizes := _fixed(leaf, batch)) is not None}
    few = {key: {2, 3} & set(sizes) for key, sizes in fixed.items()}
    counts = {max(fixed[key]) for key in fixed if few[key]}
    return [key for key, sizes in fixed.items() if not few[key] and sum(size in counts for size in sizes) != 1]


def _fixed(dims: Sequence[Dim], batch: Dim) -> tuple[int, int] | None:
    """The two sizes behind the batch, where both are constant and 2 or more; else None."""
    if len(dims) != 3 or dims[0] != batch:
        return None
    rows, columns = dims[1].constant, dims[2].constant
    return None if rows is None or columns is None or min(rows, columns) < 2 else (int(rows), int(columns))


@dataclass(frozen=True)
class PointAxes:
    """A module, its example call, and the axes of its inputs."""

    module: nn.Module
    arguments: Arguments
    axes: InputAxes
    work: Work
    """Of one pass at the example, as far as it is known."""
    is_fixed: bool = False
    """Whether no axis of the cloud but the batch may vary."""

    def measure(
        self,
        outputs: Sequence[Sequence[Dim]],
        dtypes: Sequence[torch.dtype],
        inner: Mapping[InnerKey, Sequence[Dim]],
    ) -> dict[Key, int] | None:
        """The axis of points of each tensor whose sizes do not show it, where a run does.

        Returns:
            The axes by tensor; None where no run was made, since no output needs it or no input is a cloud.
        """
        rows = enumerate(zip(outputs, dtypes, strict=True))
        batch, floating = Dim.axis("B"), {i: dims for i, (dims, dtype) in rows if dtype.is_floating_point}
        wanted = untold(floating, batch)
        if not wanted or self._cloud() is None or self._is_dear():
            return None
        named = dict(self.module.named_modules())
        blocks = {key: dims for key, dims in inner.items() if key[2] != READ and is_block(named[key[0]])}
        return self.told([*wanted, *untold(blocks, batch)])

    def told(self, keys: Sequence[Key], letters: str = "NC") -> dict[Key, int]:
        """The axis of points or frames of each of some tensors, where a run shows it.

        Args:
            keys: The tensors.
            letters: The axes of a sequence of which parts are changed, one after the other; of a cloud only `N` is.
        """
        found = dict[Key, int]()
        for letter in letters if self.lists_frames else "N":
            axes = {key: point_axis(tensor) for key, tensor in self._answers(keys, letter).items()}
            found = {key: axis for key, axis in axes.items() if axis is not None} | found
        return found

    def frames(self, keys: Sequence[Key], *, alone: bool = False) -> dict[Key, int]:
        """The axis that lists frames in order, and nothing else, of each of some tensors; empty for a cloud.

        Args:
            keys: The tensors.
            alone: Only axes whose entries respond alike to all channels, unlike those of a grid of bands and frames.
        """
        seen = self._answers(keys, "N") if self.lists_frames else {}
        axes = {key: axis for key, tensor in seen.items() if (axis := point_axis(tensor)) is not None}
        found = {key: axis for key, axis in axes.items() if _answers_in_order(seen[key], axis)}
        others = self._answers([*found], "C") if alone and found else {}
        return {key: axis for key, axis in found.items() if not alone or _alike_along(others.get(key), axis) >= SAME}

    def _answers(self, keys: Sequence[Key], letter: str) -> dict[Key, torch.Tensor]:
        """The tensors in a run on clouds with parts along an axis changed; none where a run takes too long."""
        position = self._cloud()
        seen = {} if position is None or self._is_dear() else self._seen(keys, position, letter)
        return {key: tensor for key, tensor in seen.items() if len(tensor) == CLOUDS and tensor.dim() == 3}

    @property
    def lists_frames(self) -> bool:
        """Whether the input that `_cloud` finds is a sequence of one length and no cloud."""
        position = self._cloud()
        return self.is_fixed and position is not None and POINT.isdisjoint(self.axes.shapes({})[position][1:])

    def _is_dear(self) -> bool:
        return is_dear(self.module, self.work.multiply_adds * CLOUDS)

    def _cloud(self) -> int | None:
        """The index of the input that is a cloud or a sequence: the first with the axes `B`, `C` and `N`."""
        _, tensors = flatten(self.arguments.values)
        for position, (tensor, names) in enumerate(zip(tensors, self.axes.names, strict=True)):
            if tensor.is_floating_point() and [name[0] for name in sorted(names)] == ["B", "C", "N"]:
                return position
        return None

    def _seen(self, keys: Sequence[Key], position: int, letter: str) -> dict[Key, torch.Tensor]:
        """The tensors for each cloud; empty where the module does not run on them."""
        seen: dict[Key, torch.Tensor] = {}
        tree, tensors = flatten(self.arguments.values)
        given, names = tensors[position], self.axes.names[position]
        axis = next(i for i, name in enumerate(names) if name[0] == letter)
        model = eval_copy(self.module)
        listen(model, [key for key in keys if not isinstance(key, int)], lambda key, found: seen.update({key: found}))
        device = next((parameter.device for parameter in model.parameters()), given.device)
        with undisturbed():
            moved = clouds(_example(given, 3 - axis), in_order=self.lists_frames).to(device=device, dtype=given.dtype)
            filled = [tensor[:1].expand(CLOUDS, *tensor.shape[1:]) if tensor.dim() else tensor for tensor in tensors]
            filled[position] = moved if axis == 1 else moved.transpose(1, 2).contiguous()
            try:
                _, outputs = flatten(Arguments(rebuild(tree, filled), self.arguments.positional).call(model))
            except Exception:  # a model of one batch size, or one that needs meaningful values, tells nothing
                return {}
        return seen | {key: outputs[key] for key in keys if isinstance(key, int)}


def _example(cloud: torch.Tensor, columns: int) -> torch.Tensor:
    """One cloud `[N, K]`: the caller's first, or noise where all its points are equal."""
    rows_NK = cloud[0].transpose(0, 1) if columns == 1 else cloud[0]
    if not rows_NK.is_meta and bool((rows_NK != rows_NK[:1]).any()) and bool(rows_NK.isfinite().all()):
        return rows_NK.detach().float().cpu()
    return torch.randn(rows_NK.shape, generator=torch.Generator().manual_seed(0))


def clouds(points_NK: torch.Tensor, *, in_order: bool = False) -> torch.Tensor:
    """A cloud and copies of it with one part moved, `[R, N, K]`; the parts are slices along its widest column.

    Args:
        points_NK: The cloud, or a sequence of frames.
        in_order: For a sequence: the parts are consecutive frames, changed by `CHANGED` instead of `MOVED`.
    """
    spread_K = points_NK.std(0).nan_to_num()
    order_N = torch.arange(len(points_NK)) if in_order else points_NK[:, int(spread_K.argmax())].argsort()
    noise_NK = torch.randn(points_NK.shape, generator=torch.Generator().manual_seed(1)) * spread_K
    noise_NK = noise_NK * (CHANGED if in_order else MOVED)
    moved = points_NK.expand(CLOUDS, *points_NK.shape).clone()
    for cloud_NK, part in zip(moved[1:], order_N.tensor_split(PARTS), strict=True):
        cloud_NK[part] += noise_NK[part]
    return moved


def point_axis(tensor_RXY: torch.Tensor) -> int | None:
    """The axis that lists points, of a tensor for the clouds that `clouds` makes; None where it is not clear."""
    changes_RXY = (tensor_RXY[1:] - tensor_RXY[:1]).detach().double().abs()
    if not bool(changes_RXY.isfinite().all()) or not bool(changes_RXY.flatten(1).amax(1).gt(0).all()):
        return None
    alike = {axis: _alike(changes_RXY.norm(dim=3 - axis)) for axis in (1, 2)}
    axis = min(alike, key=lambda one: alike[one])
    return axis if alike[axis] <= min(CLEAR * alike[3 - axis], APART) else None


def _alike(answers_RX: torch.Tensor) -> float:
    """The mean cosine between the changes by different parts."""
    unit_RX = nn.functional.normalize(answers_RX, dim=1)
    pairs = list(itertools.combinations(unit_RX, 2))
    return sum(float(left @ right) for left, right in pairs) / len(pairs)


def _answers_in_order(tensor_RXY: torch.Tensor, axis: int) -> bool:
    """Whether each entry along an axis responds to some part, as class tokens do not, in the order of the parts."""
    answers_RX = (tensor_RXY[1:] - tensor_RXY[:1]).detach().double().norm(dim=3 - axis)
    most_X, part_X = answers_RX.max(0)
    return bool((most_X >= WEAK * most_X.median()).all() and (part_X.diff() >= 0).all())


def _alike_along(tensor_RXY: torch.Tensor | None, axis: int) -> float:
    """The mean cosine between the changes by different parts along an axis; 0 without a tensor."""
    if tensor_RXY is None:
        return 0.0
    return _alike((tensor_RXY[1:] - tensor_RXY[:1]).detach().double().norm(dim=3 - axis))
