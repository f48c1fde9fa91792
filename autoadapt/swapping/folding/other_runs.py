"""Other runs: the example call at other sizes, batches and in train mode, since a model may take another path there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.modes import in_eval_mode, in_train_mode
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module

_STEPS = (1, 2, 4, 8, 16, 32)
"""By how many pixels images are enlarged: each makes levels of that stride odd, and one all those that round up."""


@dataclass(frozen=True)
class Run:
    """One way to run the model."""

    call: Callable[[nn.Module], Any]
    in_training: bool = False
    answer: list[torch.Tensor] = field(default_factory=list)
    """What the model returned."""

    def of(self, model: nn.Module) -> list[torch.Tensor]:
        """What a copy of the model returns."""
        mode = in_train_mode if self.in_training else in_eval_mode
        return flatten(self.call(mode(copy_module(model, clone_buffers))))[1]


def uncompiled_parts() -> contextlib.AbstractContextManager[object]:
    """A context in which compiled parts of a model run as they were before, so that what they call is seen.

    Older versions of torch than 2.6 compile them all the same.
    """
    is_there = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")  # else nothing is compiled
    return torch.compiler.set_stance("force_eager") if is_there else contextlib.nullcontext()


def runs_of(model: nn.Module, given: Arguments) -> list[Run]:
    """The example call twice, and others that the model takes: other sizes of images, batches, and train mode.

    A second call may take another path, as where the first one keeps positions in a cache.
    """

    def again(model: nn.Module) -> list[Any]:
        return [given.call_apart(model), given.call_apart(model)]

    others = [Run(one.call_apart) for one in _resized(given)] + [Run(given.call_apart, in_training=True)]
    found = [Run(again)]
    found[0].answer.extend(found[0].of(model))
    for run in others:
        with contextlib.suppress(Exception):  # whatever a model raises for a size, or for targets that are missing
            run.answer.extend(run.of(model))
            found.append(run)
    return found


def _resized(given: Arguments) -> Iterator[Arguments]:
    tree, tensors = flatten(given.values)
    images = [one for one in tensors if one.is_floating_point() and one.dim() > 2 and one.numel() > 0]
    for axes, change in _changes({one.dim() for one in images}):
        made = [_fitted(one, axes, change) if any(one is image for image in images) else one for one in tensors]
        yield Arguments(rebuild(tree, made), given.positional)
    for samples in {one.shape[0] for one in tensors if one.dim() > 1}:
        for count in {1, samples + 1} - {samples}:
            chosen = torch.arange(count) % samples
            made = [one[chosen] if one.dim() and one.shape[0] == samples else one for one in tensors]
            yield Arguments(rebuild(tree, made), given.positional)


def _changes(dims: set[int]) -> Iterator[tuple[tuple[int, ...], Callable[[int], int]]]:
    """Axes and how long they become: height and width together, then each axis alone, as time."""
    if dims:
        yield from (((-2, -1), lambda size, step=step: size + step) for step in _STEPS)
        yield (-2, -1), _half
    for axis in range(1, max(dims, default=0)):
        yield (axis,), _half
        if dims != {4}:
            yield (axis,), lambda size: size + 1


def _half(size: int) -> int:
    return max(size // 2, 1)


def _fitted(image: torch.Tensor, axes: Sequence[int], change: Callable[[int], int]) -> torch.Tensor:
    """An image repeated to another size."""
    for axis in axes:
        if axis < image.dim():
            chosen = torch.arange(change(image.shape[axis]), device=image.device) % image.shape[axis]
            image = image.index_select(axis, chosen)
    return image
