"""Batch axes: which axis of sequences lists samples, told by what is read across it.

Recurrent layers and transformers of torch take `[N, B, C]`, spiking networks `[T, B, C, H, W]`, most others samples
first, and sizes do not tell which. Where one sample is changed, the others stay as they are; where a token is, others
that read it do not.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.devices import device_of, on_meta_device, takes_long
from autoadapt.contracts.capturing.hiding import others
from autoadapt.contracts.capturing.point_axes import POINT
from autoadapt.contracts.capturing.probing import Probe, ProbeError, Shape, Work
from autoadapt.contracts.capturing.sizing import InputAxes, is_sequence, name_axes
from autoadapt.contracts.trees import flatten, rebuild

__all__ = ["axes_of"]

RUNS = 3
"""Of a module, to tell which of two axes lists samples."""
SAMPLES = 3
TOKENS = 7
"""So few do: no two axes of an output are then alike by accident."""


def axes_of(module: nn.Module, arguments: Arguments, work: Work, *, runs: bool = True) -> InputAxes:
    """The axes of a module's inputs, with tokens before samples where the module reads them so.

    Args:
        module: The module; never run itself.
        arguments: One call that is known to be meant.
        work: Of one pass at the example, as far as it is known.
        runs: Whether it may run for real, which takes two runs of a few tokens, or three.
    """
    tensors = flatten(arguments.values)[1]
    axes = name_axes(tensors)
    position = next((i for i in range(len(tensors)) if is_sequence(i, tensors)), None)
    if position is None or not runs or "E" in axes.example or on_meta_device(module):
        return axes
    turned = name_axes(tensors, samples=tensors[position].shape[1])
    is_cloud = not POINT.isdisjoint(tensors[position].shape)
    for sizes in _sizes(axes.names[position], turned.names[position], is_cloud=is_cloud):
        for one, few in zip((axes, turned), sizes, strict=True):
            shapes = one.shapes(few)
            share = math.prod(shapes[position]) / max(tensors[position].numel(), 1)
            if takes_long(device_of(module), work.multiply_adds * share * RUNS):
                return axes
            told = _lists_samples_second(module, arguments, shapes, position)
            if told is not None:
                return turned if told else axes
    return axes


def _sizes(names: Sequence[str], turned: Sequence[str], *, is_cloud: bool) -> Iterator[list[dict[str, int]]]:
    """Few samples and tokens for either reading, and few samples of as many tokens as there are, if these are words."""
    few = {name: TOKENS for name in names if name[0] == "N"}
    yield [{**few, names[0]: SAMPLES}, {turned[0]: TOKENS, turned[1]: SAMPLES}]
    if not is_cloud:  # a pass over so many points takes a minute
        yield [{names[0]: SAMPLES}, {turned[1]: SAMPLES}]


def _lists_samples_second(
    module: nn.Module, arguments: Arguments, shapes: Sequence[Shape], position: int
) -> bool | None:
    """Whether the second axis of an input lists samples and the first does not; None where the module does not run."""
    tree, _ = flatten(arguments.values)
    with contextlib.suppress(ProbeError):
        probe = Probe(module, arguments, real=True, inner=False, forgets=False)
        first = probe.run(shapes)

        def answers(axis: int) -> bool:
            given = [tensor.clone() for tensor in first.inputs]
            part = given[position].narrow(axis, 0, 1)
            part.copy_(others(part, given[position]))
            call = Arguments(rebuild(tree, given), arguments.positional)
            found = Probe(module, call, real=True, inner=False, forgets=False).run().tensors
            return _stays_apart(first.tensors, found, shapes[position][axis])

        return not answers(0) and answers(1)
    return None


def _stays_apart(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], size: int) -> bool:
    """Whether what changed is the first of one axis of that size alone, in each output that changed."""
    moved = [a != b for a, b in zip(before, after, strict=True) if a.shape == b.shape and a.is_floating_point()]
    moved = [one for one in moved if one.any()]
    return bool(moved) and all(
        any(not one.narrow(axis, 1, size - 1).any() for axis, length in enumerate(one.shape) if length == size)
        for one in moved
    )
