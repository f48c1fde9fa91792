"""Classifier heads: the features that the last layers of a classifier read."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from torch import nn

from autoadapt.contracts.capturing.inner_leaves import InnerKey, InnerLeaf, Shape
from autoadapt.contracts.layer_kinds import CONVOLUTIONS
from autoadapt.contracts.leaves import READ


def read_by_heads(
    model: nn.Module,
    noted: Mapping[InnerKey, InnerLeaf],
    returned: Mapping[InnerKey, str],
    outputs: Mapping[str, Shape],
) -> dict[InnerKey, InnerKey]:
    """For each tensor of scores, made by a last linear layer, the tensor that this layer reads.

    A last layer is a linear one, or a convolution with a kernel of 1. Flattening and dropout may follow, and behind a
    convolution an average over all cells, with or without ReLU, as in SqueezeNet. Where an output combines several
    heads, as their mean, the head with the most input channels counts, the first among equals: the class token comes
    before the distillation token.

    Args:
        model: The model.
        noted: Inner outputs, and vectors that layers read where no module returned them.
        returned: Paths of the model's outputs, by inner output.
        outputs: Shapes of the outputs, by path.
    """
    named = dict(model.named_modules())
    found = {key: read for key in returned if (read := _read(key, named, noted, outputs[returned[key]]))}
    for path, shape in outputs.items():
        if len(shape) == 2 and path not in {returned.get(key) for key in found}:
            heads = _several_heads(shape, named, noted) or _flattened_head(shape, named, noted)
            found |= dict([max(heads, key=lambda head: noted[head[1]].shape[-1])] if heads else [])
    return found


def _read(
    key: InnerKey, named: Mapping[str, nn.Module], noted: Mapping[InnerKey, InnerLeaf], shape: Shape
) -> InnerKey | None:
    """The input of the last layer that made some scores, if only flattening, dropout or averaging follow it."""
    if len(shape) != 2:
        return None
    first: InnerKey | None = key
    pooled = False
    while first is not None:
        first = noted[first].same_as or first
        module, source = named[first[0]], _source(first, noted)
        if noted[first].version != noted[key].version:
            return None
        if is_linear(module):
            return source
        pooled = pooled or isinstance(module, _AVERAGING)
        passes = isinstance(module, (*_PASSING, *_AVERAGING)) or (pooled and isinstance(module, nn.ReLU))
        if not passes or source is None or (not pooled and _count(noted[source]) != _count(noted[first])):
            return None
        first = source
    return None


def _several_heads(
    shape: Shape, named: Mapping[str, nn.Module], noted: Mapping[InnerKey, InnerLeaf]
) -> list[tuple[InnerKey, InnerKey]]:
    """Linear layers that return vectors of a shape, behind all maps, which no module reads; each with its input."""
    read: Collection[InnerKey] = {leaf.reads for leaf in noted.values() if leaf.reads is not None}
    last_map = max((leaf.finished for leaf in noted.values() if _is_map(leaf.shape, shape[-1])), default=0)
    return [
        (key, source)
        for key, leaf in noted.items()
        if leaf.shape == shape
        and key not in read
        and leaf.started > last_map
        and is_linear(named[key[0]])
        and (source := _source(key, noted)) is not None
    ]


def _flattened_head(
    shape: Shape, named: Mapping[str, nn.Module], noted: Mapping[InnerKey, InnerLeaf]
) -> list[tuple[InnerKey, InnerKey]]:
    """The last module, if it returns scores `[B, C, 1, 1]` that a function flattens, with the input of its layer."""
    key = max(noted, key=lambda key: noted[key].finished, default=None)
    if key is None or noted[key].shape[:2] != shape or _count(noted[key]) != math.prod(shape):
        return []
    source = _read(key, named, noted, shape)
    return [(key, source)] if source is not None else []


def _source(key: InnerKey, noted: Mapping[InnerKey, InnerLeaf]) -> InnerKey | None:
    """The input of a call: an inner output, or a vector that a function made; None where it was not noted."""
    made = (*key[:2], READ)
    return noted[key].reads or (made if made in noted else None)


def _is_map(made: Shape, scores: int) -> bool:
    """Whether a tensor has several cells, and does not hold scores for each of them."""
    return math.prod(made[2:]) > 1 and made[-1] != scores


def is_linear(module: nn.Module) -> bool:
    """Whether a layer is linear in the channels of each cell: `nn.Linear`, or a convolution with a kernel of 1."""
    return isinstance(module, nn.Linear) or (isinstance(module, CONVOLUTIONS) and math.prod(module.kernel_size) == 1)


def _count(leaf: InnerLeaf) -> int:
    return math.prod(leaf.shape)


_PASSING = (nn.Flatten, nn.Identity, nn.Dropout)
_AVERAGING = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AvgPool2d)
