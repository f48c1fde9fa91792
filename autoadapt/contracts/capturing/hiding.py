"""Hiding: whether an argument is a mask, by real runs with and without it, on two sets of values for what it hides."""

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
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import Form, Mask, Returned, frames_of
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import eval_copy

# Dimension letters: B batch, N tokens or samples.

_NEARLY = 0.05
"""How far the counting part may differ between hiding the rest and cutting it off, relative to its change without a
mask: a frame at the edge may see both."""

STAYS = 1e-3
"""How far the counting part may change with hidden values, relative to its change without a mask."""
MOSTLY = 0.25
"""The same, for an argument that is named as a mask."""


class Trial:
    """A copy of a module, and a call of it in which the second half of the tokens is hidden or changed.

    Of several samples the first one stays whole, as padding leaves the longest: some modules take as many tokens as the
    longest sample has. A mask for all samples hides tokens of each.

    Args:
        module: The module; only a copy of it runs.
        arguments: The example call.
        axes: The axes of its inputs.
        outputs: The dims of each output, by path.
        likely: Indices of the inputs that may be masks, and are not changed.
    """

    def __init__(
        self,
        module: nn.Module,
        arguments: Arguments,
        axes: InputAxes,
        outputs: Mapping[str, Sequence[Dim]],
        likely: Collection[int],
    ) -> None:
        self._model = eval_copy(module)
        self._positional = arguments.positional
        self._axes = axes
        self._outputs = outputs
        self._likely = likely
        self._tree, tensors = flatten(arguments.values)
        device = device_of(module)
        self._tensors = [_values(tensor).to(device) for tensor in tensors]

    def hides(self, place: int | str, mask: Mask) -> Literal["wholly", "mostly", "in front", ""]:
        """How well an argument hides tokens: wholly, mostly, only those in front of the others, or not (empty).

        Where no token reads later ones, as under causal attention, hiding is tried on the tokens in front.

        Args:
            place: The index of an input, or the name of a parameter that was not given.
            mask: What it is taken for.
        """
        for runs in self._runs(place, mask):
            kept = [list(self._counting(run, mask.axis)) for run in runs]
            stays, moves, acts = (_apart(*pair) for pair in (kept[:2], kept[2:], (kept[0], kept[2])))
            if moves > 0 and stays <= STAYS * moves:
                return "wholly" if self._is_as_cut(place, mask, kept[0], moves) else ""
            if moves == stays == 0 and self.described(place, mask).zeroed:  # tokens read only earlier ones
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
        """How far each output changes with hidden values, relative to its change without a mask.

        Args:
            place: The index of an input, or the name of a parameter that was not given.
            mask: The mask that it is.

        Returns:
            By path, for outputs that change without a mask; None where the module does not run with such a mask.
        """
        for runs in self._runs(place, mask):
            kept = [list(self._counting(run, mask.axis)) for run in runs]
            pairs = zip(self._outputs, *kept, strict=True)
            apart = {path: (_apart([a], [b]), _apart([c], [d])) for path, a, b, c, d in pairs}
            return {path: stays / moves for path, (stays, moves) in apart.items() if moves > 0}
        return None

    def described(self, place: int | str, mask: Mask) -> Mask:
        """A mask with its fields `zeroed`, `behind` and `returned` filled in."""
        zeroed, behind, half = list[str](), list[str](), (self._axes.example[mask.axis] + 1) // 2
        for runs in self._runs(place, mask):
            for (path, dims), hidden, other, shown in zip(self._outputs.items(), *runs[:3], strict=True):
                axis = _along(dims, mask.axis)
                if axis is None or not hidden.is_floating_point() or hidden.shape != other.shape:
                    continue
                count = hidden.shape[axis] // 4
                ends = [one.narrow(axis, one.shape[axis] - count, count) for one in (hidden, shown)]
                ends = [self._padded(one, dims, mask) for one in ends]
                zeroed += [path] * (count > 0 and not ends[0].any() and bool(ends[1].any()))
                moved = (hidden != other).movedim(axis, 0).flatten(1).any(1).nonzero()[:1, 0].tolist()
                more = (dims[axis] - Dim.axis(mask.axis)).constant or 0
                behind += [path] * (more > 0 and moved == [half])
            returned = self._returned(mask, half, runs)
            return mask.model_copy(update={"zeroed": tuple(zeroed), "behind": tuple(behind), "returned": returned})
        return mask

    def _returned(self, mask: Mask, half: int, runs: Sequence[Sequence[torch.Tensor]]) -> tuple[Returned, ...]:
        """The outputs that are the mask, by the runs with the second half hidden and with nothing hidden."""
        counting = self._shown(mask, half)
        lengths = [dim for dims in self._outputs.values() for dim in dims]
        found = [
            returned_mask(path, mask, dims[1:] or lengths, list(zip(counting, outputs, strict=True)))
            for (path, dims), *outputs in zip(self._outputs.items(), runs[0], runs[2], strict=True)
            if not outputs[0].is_floating_point()
        ]
        return tuple(one for one in found if one is not None)

    def silent(self, place: int | str, mask: Mask) -> list[str]:
        """Paths of outputs that `mask.returned` lists and that are not the mask of their frames.

        Args:
            place: The index of an input, or the name of a parameter that was not given.
            mask: The mask that it is, with its outputs.
        """
        counting, names = self._shown(mask, (self._axes.example[mask.axis] + 1) // 2), list(self._outputs)
        for runs in self._runs(place, mask):
            pairs = list(zip(counting, (runs[0], runs[2]), strict=True))
            known = [(told, names.index(told.path)) for told in mask.returned]
            return [told.path for told, i in known if not all(is_told(told, shown, run[i]) for shown, run in pairs)]
        return []

    def _shown(self, mask: Mask, half: int, *, front: bool = False) -> list[torch.Tensor]:
        """Which tokens count where one half is hidden, and where nothing is: booleans `[B, N]` each."""
        size, batch = self._axes.example[mask.axis], self._samples(mask.axis)
        hidden = ((torch.arange(size) < half) != front).repeat(batch, 1)
        hidden[: self._whole(mask)] = True
        return [hidden, torch.ones(batch, size, dtype=torch.bool)]

    def _whole(self, mask: Mask) -> int:
        """How many samples stay whole."""
        return 0 if mask.shared or self._samples(mask.axis) == 1 else 1

    def _padded(self, tensor: torch.Tensor, dims: Sequence[Dim], mask: Mask) -> torch.Tensor:
        """An output without the samples that stay whole."""
        axis = next((i for i, dim in enumerate(dims) if dim == Dim.axis("B")), None)
        if axis is None or tensor.dim() <= axis or tensor.shape[axis] != self._samples(mask.axis):
            return tensor
        return tensor.narrow(axis, self._whole(mask), tensor.shape[axis] - self._whole(mask))

    def _runs(self, place: int | str, mask: Mask, *, front: bool = False) -> Iterator[list[list[torch.Tensor]]]:
        """The outputs of four runs: second half hidden, with its values as given and changed; then both with no mask.

        With `front` the first half is hidden instead. Yields nothing where the module does not run with such a mask.
        """
        size = self._axes.example[mask.axis]
        half = (size + 1) // 2
        hidden, shown = self._shown(mask, half, front=front)
        other = self._changed(mask, 0 if front else half, half if front else size - half)
        for dtype in (self._tensors[place].dtype,) if isinstance(place, int) else (torch.int64, torch.bool):
            shape = self._tensors[place].shape if isinstance(place, int) else shown.shape
            with contextlib.suppress(Exception):
                masks = [mask.made(counting, shape, dtype) for counting in (hidden, shown)]
                yield [self._run(place, one, given) for one in masks for given in (self._tensors, other)]
                return

    def _is_as_cut(self, place: int | str, mask: Mask, hidden: Sequence[torch.Tensor], moves: float) -> bool:
        """Whether hiding the second half is like cutting it off; true where the module does not run on one half."""
        rows = zip(self._tensors, self._axes.names, strict=True)
        cut = [_first_half(one, names, mask.axis) for one, names in rows]
        shown = torch.ones(self._samples(mask.axis), (self._axes.example[mask.axis] + 1) // 2).bool()
        where = cut[place] if isinstance(place, int) else shown
        try:
            run = self._run(place, mask.made(shown, where.shape, where.dtype), cut)
        except Exception:  # it takes no input of that size
            return True
        pairs = ((self._counting(run, mask.axis)), hidden)
        found, kept = (
            [self._padded(*one, mask) for one in zip(each, self._outputs.values(), strict=True)] for each in pairs
        )
        alike = [left.shape == right.shape for left, right in zip(found, kept, strict=True)]
        return not all(alike) or _apart(found, kept) <= _NEARLY * moves

    def _samples(self, axis: str) -> int:
        """The batch size, of an input that lists tokens along an axis, with the batch first or second."""
        rows = zip(self._tensors, self._axes.names, strict=True)
        return next(
            tensor.shape[names.index("B") if "B" in names else 0] for tensor, names in rows if axis in tokens_of(names)
        )

    def _changed(self, mask: Mask, start: int, count: int) -> list[torch.Tensor]:
        """The inputs with other values in a part of an axis; those that may be masks stay."""
        made = []
        for i, (tensor, names) in enumerate(zip(self._tensors, self._axes.names, strict=True)):
            if i not in self._likely and mask.axis in names:
                tensor = tensor.clone()
                part = tensor.narrow(names.index(mask.axis), start, count)
                if "B" in names:
                    part = part.narrow(
                        names.index("B"), whole := self._whole(mask), tensor.shape[names.index("B")] - whole
                    )
                part.copy_(others(part, tensor))
            made.append(tensor)
        return made

    def _run(self, place: int | str, mask: torch.Tensor, given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs for given inputs and a mask."""
        tensors = [tensor.clone() for tensor in given]
        mask = mask.to(tensors[0].device)
        if isinstance(place, int):
            tensors[place] = mask
        values: dict[str, Any] = rebuild(self._tree, tensors)
        values |= {place: mask} if isinstance(place, str) else {}
        with undisturbed():
            return flatten(Arguments(values, self._positional).call(self._model))[1]

    def _counting(self, outputs: Sequence[torch.Tensor], axis: str, *, last: bool = False) -> Iterator[torch.Tensor]:
        """The first or last quarter of each output along its tokens or frames; vectors whole, integers not at all.

        Args:
            outputs: The outputs at the example, or with fewer tokens.
            axis: The input axis of tokens or samples.
            last: Whether to take the last quarter.
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
    """The axes of an input that may list tokens: all but the batch, which is the first axis unless the second is `B`.

    Example:
        >>> tokens_of(["B", "N", "C"]), tokens_of(["N", "B", "C"]), tokens_of(["N", "C"])
        (['N', 'C'], ['N', 'C'], ['C'])
    """
    return [name for name in names if name != "B"] if "B" in names[1:2] else names[1:]


def _along(dims: Sequence[Dim], axis: str) -> int | None:
    """The axis of an output that depends on one input axis alone; None where there is none."""
    return next((i for i, dim in enumerate(dims) if dim.axes == {axis}), None)


def _first_half(tensor: torch.Tensor, names: Sequence[str], axis: str) -> torch.Tensor:
    for i in (i for i, name in enumerate(names) if name == axis):
        tensor = tensor.narrow(i, 0, (tensor.shape[i] + 1) // 2)
    return tensor


def _values(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor; noise where it is on the meta device, zeros of integers."""
    if not tensor.is_meta:
        return tensor.detach()
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor.dtype)


def others(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Other values of the same kind: with noise added, inverted, or within the range of the whole's integers."""
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
    """The largest difference between two runs; infinite where their shapes differ."""
    if any(a.shape != b.shape for a, b in zip(left, right, strict=True)):
        return math.inf
    return max((float((a - b).abs().max()) for a, b in zip(left, right, strict=True) if a.numel()), default=0.0)


# Dimension letters: B batch, N tokens or samples, M frames.


def returned_mask(
    path: str,
    mask: Mask,
    lengths: Sequence[Dim],
    runs: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> Returned | None:
    """The form in which an output is a mask of frames; None where it is none.

    Args:
        path: The path of the output.
        mask: The input mask.
        lengths: Dims that may be the number of frames.
        runs: For two runs or more, which samples the mask let count, `[B, N]`, and the output.
    """
    kinds: tuple[tuple[Form, bool], ...] = (("truth", True), ("truth", False), ("lengths", True))
    for dim in dict.fromkeys(one for one in lengths if one.axes == {mask.axis}):
        frames = frames_of(dim, mask.axis)
        if frames is None and dim != Dim.axis(mask.axis):
            continue
        for form, counts in kinds:
            made = Returned(path=path, form=form, counts=counts, frames=frames)
            if all(is_told(made, counting_BN, output) for counting_BN, output in runs):
                return made
    return None


def is_told(told: Returned, counting_BN: torch.Tensor, output: torch.Tensor) -> bool:
    """Whether an output is the mask of its frames in one run."""
    first, step = told.frames or (0, 1)
    counting_BM = counting_BN[:, first::step]
    if told.form == "lengths":
        return output.shape == counting_BM.shape[:1] and bool((output.cpu() == counting_BM.sum(1)).all())
    expected_BM = counting_BM if told.counts else ~counting_BM
    return output.shape == expected_BM.shape and bool((output.cpu() == expected_BM.to(output.dtype)).all())
