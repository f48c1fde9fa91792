"""Taps: which inner outputs of a module are worth taking, found by where blocks end, not by names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

from autoadapt.layouts import factored
from autoadapt.signature import InnerOutput, TensorSpec

__all__ = ["block_boundaries"]

Strides: TypeAlias = tuple[tuple[str, Fraction], ...]


def block_boundaries(inner: Sequence[InnerOutput]) -> list[InnerOutput]:
    """The inner outputs at which blocks end, in the order in which they finish.

    A block is a module that holds two or more convolutions or linear layers. For each stride those blocks count that
    are nested least (a plain `nn.Sequential` or `nn.ModuleList` adds no nesting, and is no block if it holds single
    layers only); where there is none, the last of the layers before the next stride, such as the activation of a
    stem. So a single convolution behind the blocks, as classifiers have before their pooling, is not taken.

    Args:
        inner: What inner modules return, as `capture(..., inner=True)` notes it.
    """
    by_strides: dict[Strides, list[InnerOutput]] = {}
    known: dict[TensorSpec, Strides] = {}
    for output in inner:
        strides = known.get(output.spec)
        if strides is None:
            strides = known[output.spec] = _strides(output.spec)
        if strides:
            by_strides.setdefault(strides, []).append(output)
    found = [output for outputs in by_strides.values() for output in _boundaries(outputs)]
    return sorted(found, key=lambda output: output.finished)


def _strides(spec: TensorSpec) -> Strides:
    """Strides along the spatial input axes; empty for what is no map of features."""
    if not spec.is_floating or len(spec.dims) < 3 or str(spec.dims[0]) != "B":
        return ()
    found = factored(spec).strides
    return tuple(found.items()) if len(found) >= min(2, len(spec.dims) - 2) else ()


def _boundaries(outputs: Sequence[InnerOutput]) -> list[InnerOutput]:
    blocks = [output for output in outputs if output.parent and output.layers >= 2]
    inside = {block.module.rpartition(".")[0] for block in blocks}
    blocks = [block for block in blocks if block.kind != "Sequential" or block.module in inside]
    if not blocks:
        return _outermost(outputs)[-1:]
    least = min(block.nesting for block in blocks)
    return _alike(_distinct([block for block in blocks if block.nesting == least]))


def _outermost(outputs: Sequence[InnerOutput]) -> list[InnerOutput]:
    least = min(output.nesting for output in outputs)
    return [output for output in outputs if output.nesting == least]


def _distinct(outputs: Iterable[InnerOutput]) -> list[InnerOutput]:
    """One output for each tensor: the first that returned it among those given."""
    first: dict[str, InnerOutput] = {}
    for output in outputs:
        first.setdefault(output.same_as or output.name, output)
    return list(first.values())


def _alike(blocks: list[InnerOutput]) -> list[InnerOutput]:
    """Of many blocks in a row only those of the kind that is repeated, and the last."""
    kinds: Mapping[str, int] = Counter(block.kind for block in blocks)
    common = max(kinds, key=lambda kind: kinds[kind])
    if kinds[common] < 4:
        return blocks
    return [block for block in blocks if block.kind == common or block is blocks[-1]]
