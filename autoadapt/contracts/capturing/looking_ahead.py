"""Looking ahead: whether tokens depend on those behind them, as those of language models do not, by one real run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.devices import device_of, is_dear
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.hiding import others
from autoadapt.contracts.capturing.likely_masks import may_hide
from autoadapt.contracts.capturing.point_axes import POINT
from autoadapt.contracts.capturing.probing import Work
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import Mask, mask_at
from autoadapt.contracts.trees import flatten, path_texts, rebuild
from autoadapt.contracts.views import eval_copy

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
    masks: Sequence[Mask] = ()
    """Which of its inputs hide tokens."""

    def tell(self, outputs: Sequence[Sequence[Dim]]) -> bool | None:
        """Whether any token depends on those behind it; None where there are no tokens, or the run tells nothing.

        The first sample is given three times: as it is, and with other tokens from the middle on, or from one behind
        it: blocks of tokens end at one of these places at most.
        """
        tree, tensors = flatten(self.arguments.values)
        tensors = [self._shown(path, tensor) for path, tensor in zip(path_texts(tree), tensors, strict=True)]
        axis, rows = self._tokens(tensors)
        listed = {i: places for i, dims in enumerate(outputs) if (places := _samples_and_tokens(dims, axis))}
        is_costly = is_dear(self.module, self.work.multiply_adds * 3)
        if not rows or not listed or is_costly or self._hides_some(tensors, axis):
            return None
        device = device_of(self.module)
        size = self.axes.example[axis]
        starts = [start for start in (size // 2, size // 2 + 1) if start < size]
        rows_in = zip(tensors, self.axes.names, strict=True)
        given = [self._repeated(tensor, names, 1 + len(starts)) for tensor, names in rows_in]
        for i in rows:
            names = self.axes.names[i]
            for sample, start in enumerate(starts, 1):
                changed = given[i].narrow(names.index("B"), sample, 1).narrow(names.index(axis), start, size - start)
                changed.copy_(others(changed, tensors[i]))
        with undisturbed(), torch.no_grad():
            model = eval_copy(self.module)
            call = Arguments(rebuild(tree, [one.to(device) for one in given]), self.arguments.positional)
            try:
                found = flatten(call.call(model))[1]
            except Exception:  # a model of one batch size, or one that needs meaningful values, tells nothing
                return None
        return _moves_in_front([found[i].movedim(places, (0, 1)) for i, places in listed.items()], starts)

    def _tokens(self, tensors: Sequence[torch.Tensor]) -> tuple[str, list[int]]:
        """The axis of tokens, and the inputs that list these and hide none; not of clouds of points."""
        names = [name for row in self.axes.names for name in row if name[0] == "N"]
        axis = next((name for name in names if self.axes.example[name] > 1), "")
        rows = zip(tensors, self.axes.names, strict=True)
        listing = [i for i, (one, row) in enumerate(rows) if {axis, "B"} <= {*row} and not may_hide(one)]
        firm = [i for i in listing if not tensors[i].is_meta and not tensors[i].is_complex()]
        channels = {i: [self.axes.example[name] for name in {*self.axes.names[i]} - {axis, "B"}] for i in firm}
        return axis, [i for i in firm if POINT.isdisjoint(channels[i])]

    def _repeated(self, tensor: torch.Tensor, names: Sequence[str], count: int) -> torch.Tensor:
        if "B" not in names:
            return tensor
        samples = names.index("B")
        sizes = [count if axis == samples else -1 for axis in range(tensor.dim())]
        return tensor.narrow(samples, 0, 1).detach().expand(sizes).clone()

    def _shown(self, path: str, tensor: torch.Tensor) -> torch.Tensor:
        """A mask of tokens that hides none, whatever its ones mean; other inputs as they are."""
        mask = mask_at(self.masks, path)
        if mask is None or mask.shared or math.prod(tensor.shape[1:-1]) != 1:
            return tensor
        return mask.made(torch.ones(len(tensor), self.axes.example[mask.axis]) > 0, tensor.shape, tensor.dtype)

    def _hides_some(self, tensors: Sequence[torch.Tensor], axis: str) -> bool:
        """Whether a mask hides some tokens of the first sample, which then tell nothing."""
        rows = zip(tensors, self.axes.names, strict=True)
        masks = [self._repeated(one, row, 1) for one, row in rows if axis in row and may_hide(one) and not one.is_meta]
        return any(bool((one != one.flatten()[0]).any()) for one in masks)


def _samples_and_tokens(dims: Sequence[Dim], axis: str) -> tuple[int, int] | None:
    """Where an output lists samples and where such tokens, if it is that or more than one thing of each."""
    shown = [str(dim) for dim in dims]
    is_both = len(dims) == 3 and shown.count("B") == shown.count(axis) == 1
    return (shown.index("B"), shown.index(axis)) if is_both else None


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
