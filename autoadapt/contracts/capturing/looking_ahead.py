"""Looking ahead: whether tokens depend on those behind them, as those of language models do not, by one real run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.devices import device_of, on_meta_device, takes_long
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.hiding import others
from autoadapt.contracts.capturing.likely_masks import may_hide
from autoadapt.contracts.capturing.point_axes import POINT
from autoadapt.contracts.capturing.probing import Work
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module

__all__ = ["LookingAhead"]

STAYS = 1e-4
"""How far tokens in front of one that is changed may move, in parts of how far that one does: rounding."""


@dataclass(frozen=True)
class LookingAhead:
    """A module, one call of it, and the axes of its inputs."""

    module: nn.Module
    arguments: Arguments
    axes: InputAxes
    work: Work
    """Of one pass at the example, as far as it is known."""

    def tell(self, outputs: Sequence[Sequence[Dim]]) -> bool | None:
        """Whether any token depends on those behind it; None where there are no tokens, or the run tells nothing.

        The first sample is given three times: as it is, and with other tokens from the middle on, or from one behind
        it: blocks of tokens end at one of these places at most.

        Args:
            outputs: The dims of each output.
        """
        tree, tensors = flatten(self.arguments.values)
        axis, rows = self._tokens(tensors)
        listed = {i: [str(dim) for dim in dims].index(axis) for i, dims in enumerate(outputs) if _lists(dims, axis)}
        if not rows or not listed or self._is_dear() or self._hides_some(tensors, axis):
            return None
        device = device_of(self.module)
        size = self.axes.example[axis]
        starts = [start for start in (size // 2, size // 2 + 1) if start < size]
        rows_in = zip(tensors, self.axes.names, strict=True)
        given = [self._repeated(tensor, names, 1 + len(starts)) for tensor, names in rows_in]
        for i in rows:
            place = self.axes.names[i].index(axis) - 1
            for sample, start in enumerate(starts, 1):
                tokens = given[i][sample].narrow(place, start, size - start)
                tokens.copy_(others(tokens, tensors[i]))
        with undisturbed(), torch.no_grad():
            model = in_eval_mode(copy_module(self.module, clone_buffers))
            call = Arguments(rebuild(tree, [one.to(device) for one in given]), self.arguments.positional)
            try:
                found = flatten(call.call(model))[1]
            except Exception:  # a model of one batch size, or one that needs meaningful values, tells nothing
                return None
        return _moves_in_front([found[i].movedim(axis, 1) for i, axis in listed.items()], starts)

    def _tokens(self, tensors: Sequence[torch.Tensor]) -> tuple[str, list[int]]:
        """The axis of tokens, and the inputs that list these, samples first, and hide none; not of clouds of points."""
        names = [name for row in self.axes.names for name in row if name[0] == "N"]
        axis = next((name for name in names if self.axes.example[name] > 1), "")
        rows = zip(tensors, self.axes.names, strict=True)
        listing = [i for i, (one, row) in enumerate(rows) if axis in row[1:] and row[0] == "B" and not may_hide(one)]
        firm = [i for i in listing if not tensors[i].is_meta and not tensors[i].is_complex()]
        return axis, [i for i in firm if tensors[i].dim() == 2 or POINT.isdisjoint(tensors[i].shape[1:])]

    def _repeated(self, tensor: torch.Tensor, names: Sequence[str], count: int) -> torch.Tensor:
        if names[:1] != ("B",):
            return tensor
        return tensor[:1].detach().expand(count, *tensor.shape[1:]).clone()

    def _hides_some(self, tensors: Sequence[torch.Tensor], axis: str) -> bool:
        """Whether a mask hides some tokens of the first sample, which then tell nothing."""
        masks = [one[:1] for one, row in zip(tensors, self.axes.names, strict=True) if axis in row and may_hide(one)]
        return any(bool((one != one.flatten()[0]).any()) for one in masks if not one.is_meta)

    def _is_dear(self) -> bool:
        return on_meta_device(self.module) or takes_long(device_of(self.module), self.work.multiply_adds * 3)


def _lists(dims: Sequence[Dim], axis: str) -> bool:
    """Whether an output is samples of such tokens, or more than one thing of each."""
    shown = [str(dim) for dim in dims]
    return len(dims) == 3 and shown[0] == "B" and shown.count(axis) == 1


def _moves_in_front(tokens: Sequence[torch.Tensor], starts: Sequence[int]) -> bool | None:
    """Whether what stands in front of other tokens moves where these do; None where they do not.

    Args:
        tokens: What comes out, the samples first.
        starts: Where the other tokens of each sample behind the first begin.
    """
    found = list[bool]()
    for one in (one for one in tokens if one.is_floating_point()):
        for sample, start in enumerate(starts, 1):
            moved_N = (one[sample] - one[0]).float().flatten(1).abs().amax(1)
            behind = float(moved_N[start:].max())
            found += [bool((moved_N[:start] > STAYS * behind).any())] if behind > 0 else []
    return any(found) if found else None
