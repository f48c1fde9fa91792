"""Batch axes: which of the first two axes of a sequence lists samples, found by changing one entry along each.

torch's recurrent layers and transformers take `[N, B, C]`, spiking networks `[T, B, C, H, W]`, most others samples
first, and sizes do not tell which. A changed sample leaves the others as they are; a changed token does not.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.devices import device_of, on_meta_device, takes_long
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.hiding import others
from autoadapt.contracts.capturing.point_axes import POINT
from autoadapt.contracts.capturing.probing import Probe, ProbeError, Shape, Work
from autoadapt.contracts.capturing.sizing import is_sequence, name_axes
from autoadapt.contracts.trees import flatten, rebuild

RUNS = 3
"""Real runs that this takes."""
SAMPLES = 3
TOKENS = 7
"""Small enough to be cheap, and unequal, so that no two axes of an output have one size by accident."""


def axes_of(module: nn.Module, arguments: Arguments, work: Work, *, runs: bool = True) -> InputAxes:
    """The axes of a module's inputs, with tokens before samples where the module takes them so.

    Args:
        module: The module; only copies of it run.
        arguments: The example call.
        work: Work of one pass at the example, as far as it is known.
        runs: Whether it may run for real: two or three runs of a few tokens.
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
    """Sizes for either reading: few samples of few tokens, then few samples of all tokens, unless these are points."""
    few = {name: TOKENS for name in names if name[0] == "N"}
    yield [{**few, names[0]: SAMPLES}, {turned[0]: TOKENS, turned[1]: SAMPLES}]
    if not is_cloud:  # a pass over so many points takes a minute
        yield [{names[0]: SAMPLES}, {turned[1]: SAMPLES}]


def _lists_samples_second(
    module: nn.Module, arguments: Arguments, shapes: Sequence[Shape], position: int
) -> bool | None:
    """Whether an input lists samples on its second axis and not on its first; None where the module does not run."""
    tree, _ = flatten(arguments.values)
    with contextlib.suppress(ProbeError):
        probe = Probe(module, arguments, real=True, inner=False, forgets=False)
        first = probe.run(shapes)

        def lists_samples(axis: int) -> bool:
            given = [tensor.clone() for tensor in first.inputs]
            part = given[position].narrow(axis, 0, 1)
            part.copy_(others(part, given[position]))
            call = Arguments(rebuild(tree, given), arguments.positional)
            found = Probe(module, call, real=True, inner=False, forgets=False).run().tensors
            return _changes_first_alone(first.tensors, found, shapes[position][axis])

        return not lists_samples(0) and lists_samples(1)
    return None


def _changes_first_alone(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], size: int) -> bool:
    """Whether each output that changed did so only in the first entry along some axis of that size."""
    moved = [a != b for a, b in zip(before, after, strict=True) if a.shape == b.shape and a.is_floating_point()]
    moved = [one for one in moved if one.any()]
    return bool(moved) and all(
        any(not one.narrow(axis, 1, size - 1).any() for axis, length in enumerate(one.shape) if length == size)
        for one in moved
    )
