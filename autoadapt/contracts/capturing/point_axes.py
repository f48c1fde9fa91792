"""Point axes: which axis of a tensor of fixed sizes lists points, measured in one small run for real.

Of `[B, 256, 256]` features of 256 points, sizes do not tell whether points stand in rows or in columns, nor of
`[B, 128, 256]` how many points there are. Some points of a cloud are moved a little: what lists points answers in other
places for each part of the cloud, and what lists channels in the same ones. So it is with the tokens of a module that
takes frames of one length only; parts are then parts of its frames, or of its bands.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.devices import device_of, on_meta_device, takes_long
from autoadapt.contracts.capturing.ordering import is_block, listen
from autoadapt.contracts.capturing.probing import InnerKey, Work
from autoadapt.contracts.capturing.sizing import InputAxes
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.leaves import READ
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module

__all__ = ["CLOUDS", "POINT", "PointAxes", "clouds", "point_axis", "untold"]

# Dimension letters: R clouds (the first one, and one for each part that is moved), N points, K columns of a point.
Key: TypeAlias = InnerKey | int
"""An inner output, or the number of an output of the whole."""

PARTS = 3
CLOUDS = 1 + PARTS
"""In the batch of the run: one, and one for each part that is moved."""
MOVED = 1e-3
"""How far points are moved, in spreads of a column: so little that the same ones are sampled as before."""
CHANGED = 1.0
"""How far frames are, of which none is sampled: so much that half precision shows it."""
POINT = {3, 4, 6}
"""Columns of a point: xyz, with intensity, with normals."""
CLEAR = 0.8
"""How alike the answers along the axis of points may be at most, in shares of how alike those along the other are."""

SAME = 0.75
"""How alike frames answer to all channels at least."""
WEAK = 0.3
"""How much less than the median a frame may answer."""
APART = 0.6
"""How alike the answers along the axis of points may be at most, as the cosine of two of them."""


def untold(dims: Mapping[Any, Sequence[Dim]], batch: Dim) -> list[Key]:
    """Tensors of two fixed sizes besides the samples, where coordinates do not tell which of them counts points.

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
    """The two sizes of a tensor that do not follow the input; None where one does, or counts a single thing."""
    if len(dims) != 3 or dims[0] != batch:
        return None
    rows, columns = dims[1].constant, dims[2].constant
    return None if rows is None or columns is None or min(rows, columns) < 2 else (int(rows), int(columns))


@dataclass(frozen=True)
class PointAxes:
    """A module, one call of it, and what its inputs list."""

    module: nn.Module
    arguments: Arguments
    axes: InputAxes
    work: Work
    """Of one pass at the example, as far as it is known."""
    is_fixed: bool = False
    """Whether neither axis of the cloud may vary."""

    def measure(
        self,
        outputs: Sequence[Sequence[Dim]],
        dtypes: Sequence[torch.dtype],
        inner: Mapping[InnerKey, Sequence[Dim]],
    ) -> dict[Key, int] | None:
        """The axis of points of each tensor that does not tell it by its sizes, where the run tells.

        Args:
            outputs: The dims of each output.
            dtypes: The dtype of each output.
            inner: The dims of what inner modules return.

        Returns:
            What was found; None where there was nothing to tell, or no cloud to tell it with, and so no run.
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
        """The axis of points or frames of each of some tensors that tells it.

        Args:
            keys: Which tensors.
            letters: What the axes of a sequence are called of which parts are changed; of a cloud it is `N`.
        """
        found = dict[Key, int]()
        for letter in letters if self.lists_frames else "N":
            axes = {key: point_axis(tensor) for key, tensor in self._answers(keys, letter).items()}
            found = {key: axis for key, axis in axes.items() if axis is not None} | found
        return found

    def frames(self, keys: Sequence[Key], *, alone: bool = False) -> dict[Key, int]:
        """The axis that lists frames and nothing else of each of some tensors that tells it; nothing of a cloud.

        Args:
            keys: Which tensors.
            alone: Only where all of them answer alike to all channels, as those of a grid of bands and frames do not.
        """
        seen = self._answers(keys, "N") if self.lists_frames else {}
        axes = {key: axis for key, tensor in seen.items() if (axis := point_axis(tensor)) is not None}
        found = {key: axis for key, axis in axes.items() if _answers_in_order(seen[key], axis)}
        others = self._answers([*found], "C") if alone and found else {}
        return {key: axis for key, axis in found.items() if not alone or _alike_along(others.get(key), axis) >= SAME}

    def _answers(self, keys: Sequence[Key], letter: str) -> dict[Key, torch.Tensor]:
        """The tensors for clouds of which parts along an axis are changed; none where a run takes too long."""
        position = self._cloud()
        seen = {} if position is None or self._is_dear() else self._seen(keys, position, letter)
        return {key: tensor for key, tensor in seen.items() if len(tensor) == CLOUDS and tensor.dim() == 3}

    @property
    def lists_frames(self) -> bool:
        """Whether what is called a cloud is a sequence of one length."""
        position = self._cloud()
        return self.is_fixed and position is not None and POINT.isdisjoint(self.axes.shapes({})[position][1:])

    def _is_dear(self) -> bool:
        """Whether there are no values to run on, or a run takes too long."""
        work = self.work.multiply_adds * CLOUDS
        return on_meta_device(self.module) or takes_long(device_of(self.module), work)

    def _cloud(self) -> int | None:
        """Which input is a cloud of points: the first with three axes, one of which is called so."""
        _, tensors = flatten(self.arguments.values)
        for position, (tensor, names) in enumerate(zip(tensors, self.axes.names, strict=True)):
            if tensor.is_floating_point() and [name[0] for name in sorted(names)] == ["B", "C", "N"]:
                return position
        return None

    def _seen(self, keys: Sequence[Key], position: int, letter: str) -> dict[Key, torch.Tensor]:
        """The tensors for each cloud; nothing where the module does not run on them."""
        seen: dict[Key, torch.Tensor] = {}
        tree, tensors = flatten(self.arguments.values)
        given, names = tensors[position], self.axes.names[position]
        axis = next(i for i, name in enumerate(names) if name[0] == letter)
        model = in_eval_mode(copy_module(self.module, clone_buffers))
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
    """One cloud in rows, `[N, K]`: the caller's, or noise where all its points are one."""
    rows_NK = cloud[0].transpose(0, 1) if columns == 1 else cloud[0]
    if not rows_NK.is_meta and bool((rows_NK != rows_NK[:1]).any()) and bool(rows_NK.isfinite().all()):
        return rows_NK.detach().float().cpu()
    return torch.randn(rows_NK.shape, generator=torch.Generator().manual_seed(0))


def clouds(points_NK: torch.Tensor, *, in_order: bool = False) -> torch.Tensor:
    """A cloud and copies of it with one part moved a little, `[R, N, K]`; parts lie apart along the widest column.

    Args:
        points_NK: The cloud.
        in_order: It lists frames: parts are the first of them, those behind and the last ones, changed the more.
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
    """Which axis of a tensor lists points, of those of the clouds that `clouds` makes; None where it is not clear."""
    changes_RXY = (tensor_RXY[1:] - tensor_RXY[:1]).detach().double().abs()
    if not bool(changes_RXY.isfinite().all()) or not bool(changes_RXY.flatten(1).amax(1).gt(0).all()):
        return None
    alike = {axis: _alike(changes_RXY.norm(dim=3 - axis)) for axis in (1, 2)}
    axis = min(alike, key=lambda one: alike[one])
    return axis if alike[axis] <= min(CLEAR * alike[3 - axis], APART) else None


def _alike(answers_RX: torch.Tensor) -> float:
    """How alike the answers to different parts are: the mean cosine between two of them."""
    unit_RX = nn.functional.normalize(answers_RX, dim=1)
    pairs = list(itertools.combinations(unit_RX, 2))
    return sum(float(left @ right) for left, right in pairs) / len(pairs)


def _answers_in_order(tensor_RXY: torch.Tensor, axis: int) -> bool:
    """Whether each entry along an axis moves much with some part, as no class token does, the first with the first."""
    answers_RX = (tensor_RXY[1:] - tensor_RXY[:1]).detach().double().norm(dim=3 - axis)
    most_X, part_X = answers_RX.max(0)
    return bool((most_X >= WEAK * most_X.median()).all() and (part_X.diff() >= 0).all())


def _alike_along(tensor_RXY: torch.Tensor | None, axis: int) -> float:
    """How alike the answers to different parts are along an axis; not at all where there are none."""
    if tensor_RXY is None:
        return 0.0
    return _alike((tensor_RXY[1:] - tensor_RXY[:1]).detach().double().norm(dim=3 - axis))
