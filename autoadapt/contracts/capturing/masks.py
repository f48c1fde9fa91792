"""Masks: which inputs hide tokens or samples, found by what stays as it is when hidden values change.

Zeros and ones may be a mask, types of tokens, or features. A mask is what it does: where it hides something, other
values there change nothing of what comes out for the rest, no more than if what is hidden were not there at all, and
where it hides nothing they do. Models that attend show it in every token. Of those that look no further than their
neighbours, or that take statistics over hidden values too, the name of the argument tells, if most of what is hidden
counts no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments, parameters_of
from autoadapt.contracts.capturing.confirming import MOST_ELSEWHERE, MOST_MULTIPLY_ADDS, on_meta_device
from autoadapt.contracts.capturing.probing import Work
from autoadapt.contracts.capturing.sizing import InputAxes, is_binary
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import Mask
from autoadapt.contracts.trees import Constant, flatten, path_text, paths, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module

__all__ = ["Masks", "counts_by_name"]

# Dimension letters: B batch, N tokens or samples.

_NEARLY = 0.05
"""How far what counts may be from what it is without what is hidden: a frame at the edge may see some of either."""

STAYS = 1e-3
"""How far what counts may change with what is hidden, in parts of how far it changes where nothing is hidden."""
MOSTLY = 0.25
"""The same, for an argument that is called a mask."""
RUNS = 5
"""Of a module, to try one argument for one meaning of its ones."""


@dataclass(frozen=True)
class Masks:
    """A module, one call of it, and the axes of its inputs."""

    module: nn.Module
    arguments: Arguments
    axes: InputAxes
    work: Work
    """Of one pass at the example, as far as it is known."""
    outputs: Sequence[Sequence[Dim]]
    """The dims of each output."""

    def find(self) -> tuple[Mask, ...]:
        """The masks among what is given, and among what could be given besides: those that are called masks."""
        tree, tensors = flatten(self.arguments.values)
        names = [path_text(path) for path in paths(tree)]
        given = [i for i, tensor in enumerate(tensors) if is_binary(tensor) and self._lies_along(i) is not None]
        spare = [] if self._is_dear() else self._spare(names)
        if not given and not spare:
            return ()
        tried = None if self._is_dear() else _Trial(self, frozenset(given))
        found = [self._told(names[i], axis, tried, i) for i in given if (axis := self._lies_along(i)) is not None]
        if tried is not None and not any(found):
            found += [self._told(name, axis, tried, name) for name, axis in spare]
        return tuple(mask for mask in found if mask is not None)

    def _told(self, name: str, axis: str, tried: _Trial | None, place: int | str) -> Mask | None:
        """What one argument is; None where it is no mask."""
        by_name = counts_by_name(name)
        if tried is None:
            return None if by_name is None else Mask(argument=name, axis=axis, counts=by_name)
        hides = {}
        for counts in dict.fromkeys((by_name is not False, by_name is False)):
            hides[counts] = tried.hides(place, axis, counts=counts)
            if hides[counts] == "wholly":
                return Mask(argument=name, axis=axis, counts=counts)
        return Mask(argument=name, axis=axis, counts=by_name) if by_name is not None and hides[by_name] else None

    def _lies_along(self, position: int) -> str | None:
        """The axis of another input that an input lies along besides the samples."""
        names = self.axes.names[position]
        others = {name for i, row in enumerate(self.axes.names) if i != position for name in row}
        return names[1] if len(names) == 2 and names[1] in others and names[1] != names[0] else None

    def _spare(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Parameters that were not given and are called masks, with the axis of tokens that they may lie along."""
        tokens = [row for row in self.axes.names if len(row) in (2, 3) and any(name[0] == "N" for name in row)]
        if not tokens:
            return []
        axis = next(name for name in tokens[0] if name[0] == "N")
        listed = [one.name for one in parameters_of(self.module, self.arguments) if one.default == Constant()]
        return [(name, axis) for name in listed if name not in names and counts_by_name(name) is not None]

    def _is_dear(self) -> bool:
        """Whether there are no values to run on, or the runs take too long."""
        device = next((parameter.device.type for parameter in self.module.parameters()), "cpu")
        most = MOST_MULTIPLY_ADDS.get(device, MOST_ELSEWHERE)
        return on_meta_device(self.module) or self.work.multiply_adds * RUNS > most


_COUNTING, _HIDING = (
    ("mask", "attention_mask"),
    ("padding_mask", "pad_mask", "key_padding_mask", "src_key_padding_mask"),
)


def counts_by_name(name: str) -> bool | None:
    """Whether ones stand at what counts, by the habit of the field; None where the name is that of no such mask."""
    last = name.rpartition(".")[2]
    return True if last in _COUNTING else False if last in _HIDING else None


class _Trial:
    """A copy of the module, and the example with its second half hidden or changed."""

    def __init__(self, asked: Masks, binary: frozenset[int]) -> None:
        self._model = in_eval_mode(copy_module(asked.module, clone_buffers))
        self._positional = asked.arguments.positional
        self._axes = asked.axes
        self._outputs = asked.outputs
        self._binary = binary
        self._tree, tensors = flatten(asked.arguments.values)
        device = next((parameter.device for parameter in asked.module.parameters()), torch.device("cpu"))
        self._tensors = [_values(tensor).to(device) for tensor in tensors]

    def hides(self, place: int | str, axis: str, *, counts: bool) -> Literal["wholly", "mostly", ""]:
        """Whether other values change nothing where an argument hides them, or little.

        Args:
            place: Which input, or the name of one more.
            axis: That it lies along.
            counts: Whether its ones are taken to stand at what counts.
        """
        batch, size = self._shape(axis)
        shown = torch.full((batch, size), counts)
        hidden = torch.arange(size).expand(batch, -1) < (size + 1) // 2
        hidden = hidden if counts else ~hidden
        other = self._changed(axis, size)
        for dtype in (self._tensors[place].dtype,) if isinstance(place, int) else (torch.int64, torch.bool):
            masks = hidden.to(dtype), shown.to(dtype)
            try:
                runs = [self._run(place, mask, given) for mask in masks for given in (self._tensors, other)]
            except Exception:  # it takes no such tensor there, or none that hides so much
                continue
            kept = [list(self._counting(run, axis, size)) for run in runs]
            stays, moves, acts = (_apart(*pair) for pair in (kept[:2], kept[2:], (kept[0], kept[2])))
            if moves > 0 and stays <= STAYS * moves:
                return "wholly" if self._is_as_cut(place, axis, shown.to(dtype), kept[0], moves) else ""
            return "mostly" if acts > 0 and stays <= MOSTLY * moves else ""
        return ""

    def _is_as_cut(
        self, place: int | str, axis: str, shown_BN: torch.Tensor, hidden: Sequence[torch.Tensor], moves: float
    ) -> bool:
        """Whether what is hidden counts no more than if it were not there, where the module runs on so little."""
        size = shown_BN.shape[1]
        rows = zip(self._tensors, self._axes.names, strict=True)
        cut = [one.narrow(names.index(axis), 0, (size + 1) // 2) if axis in names else one for one, names in rows]
        try:
            run = self._run(place, shown_BN[:, : (size + 1) // 2], cut)
        except Exception:  # it takes no input of that size
            return True
        found = list(self._counting(run, axis, size))
        alike = [left.shape == right.shape for left, right in zip(found, hidden, strict=True)]
        return not all(alike) or _apart(found, hidden) <= _NEARLY * moves

    def _shape(self, axis: str) -> tuple[int, int]:
        row = next(i for i, names in enumerate(self._axes.names) if axis in names)
        shape = dict(zip(self._axes.names[row], self._tensors[row].shape, strict=True))
        return self._tensors[row].shape[0], shape[axis]

    def _changed(self, axis: str, size: int) -> list[torch.Tensor]:
        """The inputs with other values in the second half of an axis, but for those that may be masks themselves."""
        made = []
        for i, (tensor, names) in enumerate(zip(self._tensors, self._axes.names, strict=True)):
            if i not in self._binary and axis in names:
                tensor = tensor.clone()
                half = tensor.narrow(names.index(axis), (size + 1) // 2, size // 2)
                half.copy_(_others(half, tensor))
            made.append(tensor)
        return made

    def _run(self, place: int | str, mask_BN: torch.Tensor, given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        tensors = [tensor.clone() for tensor in given]
        mask_BN = mask_BN.to(tensors[0].device)
        if isinstance(place, int):
            tensors[place] = mask_BN
        values: dict[str, Any] = rebuild(self._tree, tensors)
        values |= {place: mask_BN} if isinstance(place, str) else {}
        with undisturbed():
            return flatten(Arguments(values, self._positional).call(self._model))[1]

    def _counting(self, outputs: Sequence[torch.Tensor], axis: str, size: int) -> Iterator[torch.Tensor]:
        """What stands in the first quarter of an axis of tokens or frames; vectors as they are.

        Args:
            outputs: At the example, or at less along the axis.
            axis: Of tokens or samples.
            size: Of the axis at the example.
        """
        for tensor, dims in zip(outputs, self._outputs, strict=True):
            if tensor.is_floating_point():
                along = [i for i, dim in enumerate(dims) if dim.axes == {axis}][:1]
                if along:
                    whole = dims[along[0]].evaluate({axis: size})
                    tensor = tensor.narrow(along[0], 0, min(max(whole // 4, 1), tensor.shape[along[0]]))
                yield tensor


def _values(tensor: torch.Tensor) -> torch.Tensor:
    """Of the example; noise and zeros where it has none."""
    if not tensor.is_meta:
        return tensor.detach()
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor.dtype)


def _others(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Other values of the same kind."""
    if part.is_floating_point():
        noise = torch.randn(part.shape, generator=torch.Generator().manual_seed(1)).to(part)
        return part + noise * whole.float().std().nan_to_num(1.0).to(part).clamp(min=1e-3)
    if part.dtype is torch.bool:
        return ~part
    low, high = whole.min(), whole.max()
    return low + (part - low + 1) % (high - low + 1)


def _apart(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    """The largest difference between two runs."""
    return max((float((a - b).abs().max()) for a, b in zip(left, right, strict=True) if a.numel()), default=0.0)
