"""Hiding: a module run with a mask and without, with two kinds of values behind it, and what of its outputs moves."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.devices import device_of
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.returned_masks import is_told, returned_mask
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import Mask, Returned
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module

__all__ = ["MOSTLY", "STAYS", "Trial", "others", "tokens_of"]

# Dimension letters: B batch, N tokens or samples.

_NEARLY = 0.05
"""How far what counts may be from what it is without what is hidden: a frame at the edge may see some of either."""

STAYS = 1e-3
"""How far what counts may change with what is hidden, in parts of how far it changes where nothing is hidden."""
MOSTLY = 0.25
"""The same, for an argument that is called a mask."""


class Trial:
    """A copy of a module, and a call of it whose second half is hidden or changed.

    Args:
        module: The module; never run itself.
        arguments: The call.
        axes: Of its inputs.
        outputs: The dims of each output, by path.
        likely: Which inputs may be masks, and are not changed.
    """

    def __init__(
        self,
        module: nn.Module,
        arguments: Arguments,
        axes: InputAxes,
        outputs: Mapping[str, Sequence[Dim]],
        likely: Collection[int],
    ) -> None:
        self._model = in_eval_mode(copy_module(module, clone_buffers))
        self._positional = arguments.positional
        self._axes = axes
        self._outputs = outputs
        self._likely = likely
        self._tree, tensors = flatten(arguments.values)
        device = device_of(module)
        self._tensors = [_values(tensor).to(device) for tensor in tensors]

    def hides(self, place: int | str, mask: Mask) -> Literal["wholly", "mostly", "in front", ""]:
        """Whether other values change nothing where an argument hides them, or little; or only in front of the rest.

        Where no token reads those behind it, as in language models, nothing that stands there tells.

        Args:
            place: Which input, or the name of one more.
            mask: What it is taken for.
        """
        for runs in self._runs(place, mask):
            kept = [list(self._counting(run, mask.axis)) for run in runs]
            stays, moves, acts = (_apart(*pair) for pair in (kept[:2], kept[2:], (kept[0], kept[2])))
            if moves > 0 and stays <= STAYS * moves:
                return "wholly" if self._is_as_cut(place, mask, kept[0], moves) else ""
            if moves == stays == 0 and self.described(place, mask).zeroed:  # what reads back alone
                return "wholly"
            if moves == stays == 0 and mask.form != "lengths":
                return self._hides_in_front(place, mask)
            return "mostly" if acts > 0 and stays <= MOSTLY * moves else ""
        return ""

    def _hides_in_front(self, place: int | str, mask: Mask) -> Literal["in front", ""]:
        for runs in self._runs(place, mask, front=True):
            kept = [list(self._counting(run, mask.axis, last=True)) for run in runs]
            stays, moves = _apart(*kept[:2]), _apart(*kept[2:])
            return "in front" if moves > 0 and stays <= STAYS * moves else ""
        return ""

    def share(self, place: int | str, mask: Mask) -> dict[str, float] | None:
        """How far each output changes with what is hidden, in parts of how far it changes where nothing is.

        Args:
            place: Which input, or the name of one more.
            mask: What it is.

        Returns:
            By path, those alone that change where nothing is hidden; None where it takes no such mask.
        """
        for runs in self._runs(place, mask):
            kept = [list(self._counting(run, mask.axis)) for run in runs]
            pairs = zip(self._outputs, *kept, strict=True)
            apart = {path: (_apart([a], [b]), _apart([c], [d])) for path, a, b, c, d in pairs}
            return {path: stays / moves for path, (stays, moves) in apart.items() if moves > 0}
        return None

    def described(self, place: int | str, mask: Mask) -> Mask:
        """A mask with the outputs that are zero at what it hides, have more tokens behind, or are the mask itself."""
        zeroed, behind, half = list[str](), list[str](), (self._axes.example[mask.axis] + 1) // 2
        for runs in self._runs(place, mask):
            for (path, dims), hidden, other, shown in zip(self._outputs.items(), *runs[:3], strict=True):
                axis = _along(dims, mask.axis)
                if axis is None or not hidden.is_floating_point() or hidden.shape != other.shape:
                    continue
                count = hidden.shape[axis] // 4
                ends = [one.narrow(axis, one.shape[axis] - count, count) for one in (hidden, shown)]
                zeroed += [path] * (count > 0 and not ends[0].any() and bool(ends[1].any()))
                moved = (hidden != other).movedim(axis, 0).flatten(1).any(1).nonzero()[:1, 0].tolist()
                more = (dims[axis] - Dim.axis(mask.axis)).constant or 0
                behind += [path] * (more > 0 and moved == [half])
            returned = self._returned(mask, half, runs)
            return mask.model_copy(update={"zeroed": tuple(zeroed), "behind": tuple(behind), "returned": returned})
        return mask

    def _returned(self, mask: Mask, half: int, runs: Sequence[Sequence[torch.Tensor]]) -> tuple[Returned, ...]:
        """The outputs that are the mask, by runs with the second half hidden and with nothing hidden."""
        counting = self._shown(mask.axis, half)
        lengths = [dim for dims in self._outputs.values() for dim in dims]
        found = [
            returned_mask(path, mask, dims[1:] or lengths, list(zip(counting, outputs, strict=True)))
            for (path, dims), *outputs in zip(self._outputs.items(), runs[0], runs[2], strict=True)
            if not outputs[0].is_floating_point()
        ]
        return tuple(one for one in found if one is not None)

    def silent(self, place: int | str, mask: Mask) -> list[str]:
        """Outputs that are to be a mask for their frames, and are not.

        Args:
            place: Which input, or the name of one more.
            mask: What it is, with what is known of outputs.
        """
        counting, names = self._shown(mask.axis, (self._axes.example[mask.axis] + 1) // 2), list(self._outputs)
        for runs in self._runs(place, mask):
            pairs = list(zip(counting, (runs[0], runs[2]), strict=True))
            known = [(told, names.index(told.path)) for told in mask.returned]
            return [told.path for told, i in known if not all(is_told(told, shown, run[i]) for shown, run in pairs)]
        return []

    def _shown(self, axis: str, half: int) -> list[torch.Tensor]:
        """Which tokens count where the second half is hidden, and where nothing is, `[B, N]` each."""
        size = self._axes.example[axis]
        return [(torch.arange(size) < count).expand(self._samples(axis), -1) for count in (half, size)]

    def _runs(self, place: int | str, mask: Mask, *, front: bool = False) -> Iterator[list[list[torch.Tensor]]]:
        """What comes out where the second half is hidden, with two kinds of values there; and the same with no mask.

        Or where the first half is.

        Nothing where it takes no such tensor there, or none that hides so much.
        """
        batch, size = self._samples(mask.axis), self._axes.example[mask.axis]
        shown = torch.ones(batch, size, dtype=torch.bool)
        half = (size + 1) // 2
        hidden = (torch.arange(size).expand(batch, -1) < half) != front
        other = self._changed(mask.axis, 0 if front else half, half if front else size - half)
        for dtype in (self._tensors[place].dtype,) if isinstance(place, int) else (torch.int64, torch.bool):
            shape = self._tensors[place].shape if isinstance(place, int) else shown.shape
            with contextlib.suppress(Exception):
                masks = [mask.made(counting, shape, dtype) for counting in (hidden, shown)]
                yield [self._run(place, one, given) for one in masks for given in (self._tensors, other)]
                return

    def _is_as_cut(self, place: int | str, mask: Mask, hidden: Sequence[torch.Tensor], moves: float) -> bool:
        """Whether what is hidden counts no more than if it were not there, where the module runs on so little."""
        rows = zip(self._tensors, self._axes.names, strict=True)
        cut = [_first_half(one, names, mask.axis) for one, names in rows]
        shown = torch.ones(self._samples(mask.axis), (self._axes.example[mask.axis] + 1) // 2).bool()
        where = cut[place] if isinstance(place, int) else shown
        try:
            run = self._run(place, mask.made(shown, where.shape, where.dtype), cut)
        except Exception:  # it takes no input of that size
            return True
        found = list(self._counting(run, mask.axis))
        alike = [left.shape == right.shape for left, right in zip(found, hidden, strict=True)]
        return not all(alike) or _apart(found, hidden) <= _NEARLY * moves

    def _samples(self, axis: str) -> int:
        """How many items there are, of which an input lists tokens along an axis, behind them or before."""
        rows = zip(self._tensors, self._axes.names, strict=True)
        return next(
            tensor.shape[names.index("B") if "B" in names else 0] for tensor, names in rows if axis in tokens_of(names)
        )

    def _changed(self, axis: str, start: int, count: int) -> list[torch.Tensor]:
        """The inputs with other values in a part of an axis, but for those that may be masks themselves."""
        made = []
        for i, (tensor, names) in enumerate(zip(self._tensors, self._axes.names, strict=True)):
            if i not in self._likely and axis in names:
                tensor = tensor.clone()
                part = tensor.narrow(names.index(axis), start, count)
                part.copy_(others(part, tensor))
            made.append(tensor)
        return made

    def _run(self, place: int | str, mask: torch.Tensor, given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        tensors = [tensor.clone() for tensor in given]
        mask = mask.to(tensors[0].device)
        if isinstance(place, int):
            tensors[place] = mask
        values: dict[str, Any] = rebuild(self._tree, tensors)
        values |= {place: mask} if isinstance(place, str) else {}
        with undisturbed():
            return flatten(Arguments(values, self._positional).call(self._model))[1]

    def _counting(self, outputs: Sequence[torch.Tensor], axis: str, *, last: bool = False) -> Iterator[torch.Tensor]:
        """What stands in the first or last quarter of an axis of tokens or frames; vectors as they are, no integers.

        Args:
            outputs: At the example, or at less along the axis.
            axis: Of tokens or samples.
        """
        for tensor, dims in zip(outputs, self._outputs.values(), strict=True):
            along = _along(dims, axis)
            if not tensor.is_floating_point():
                tensor = tensor.new_zeros(0)
            elif along is not None:
                whole = dims[along].evaluate({axis: self._axes.example[axis]})
                count = min(max(whole // 4, 1), tensor.shape[along])
                tensor = tensor.narrow(along, tensor.shape[along] - count if last else 0, count)
            yield tensor


def tokens_of(names: Sequence[str]) -> Sequence[str]:
    """The axes of an input that list tokens of its items: all behind the first, and the first where items stand second.

    Example:
        >>> tokens_of(["B", "N", "C"]), tokens_of(["N", "B", "C"]), tokens_of(["N", "C"])
        (['N', 'C'], ['N', 'C'], ['C'])
    """
    return [name for name in names if name != "B"] if "B" in names[1:2] else names[1:]


def _along(dims: Sequence[Dim], axis: str) -> int | None:
    """Which axis of an output lists tokens or frames of an input axis, and nothing else."""
    return next((i for i, dim in enumerate(dims) if dim.axes == {axis}), None)


def _first_half(tensor: torch.Tensor, names: Sequence[str], axis: str) -> torch.Tensor:
    for i in (i for i, name in enumerate(names) if name == axis):
        tensor = tensor.narrow(i, 0, (tensor.shape[i] + 1) // 2)
    return tensor


def _values(tensor: torch.Tensor) -> torch.Tensor:
    """Of the example; noise and zeros where it has none."""
    if not tensor.is_meta:
        return tensor.detach()
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor.dtype)


def others(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Other values of the same kind."""
    if part.is_floating_point():
        noise = torch.randn(part.shape, generator=torch.Generator().manual_seed(1)).to(part)
        return part + noise * whole.float().std().nan_to_num(1.0).to(part).clamp(min=1e-3)
    if part.dtype is torch.bool:
        return ~part
    low, high = whole.min(), whole.max()
    if low == high:
        return part + (1 if low == 0 else -1)
    return low + (part - low + 1) % (high - low + 1)


def _apart(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    """The largest difference between two runs; without end where their shapes differ."""
    if any(a.shape != b.shape for a, b in zip(left, right, strict=True)):
        return math.inf
    return max((float((a - b).abs().max()) for a, b in zip(left, right, strict=True) if a.numel()), default=0.0)
