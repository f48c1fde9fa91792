"""Trunks: feature maps that lead to deeper levels, without side branches such as auxiliary heads."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

from autoadapt.contracts.signature import InnerOutput

Strides: TypeAlias = tuple[tuple[str, Fraction], ...]


def without_branches(groups: Mapping[Strides, Sequence[InnerOutput]]) -> dict[Strides, Sequence[InnerOutput]]:
    """Feature maps by stride, without those of side branches, where others of their stride are in the trunk.

    The trunk is all parameters behind one map: of those that depend on layers of the coarsest stride, the map that
    depends on most parameters. A map of a side branch depends on parameters outside of the trunk, and on no layer of a
    coarser stride; so top-down paths, and parallel branches that are fused repeatedly, are in the trunk. At the
    coarsest stride all maps are.

    Args:
        groups: Inner outputs by stride.
    """
    every = [output for outputs in groups.values() for output in outputs]
    if not all(output.weights for output in every):
        return dict(groups)
    held = {_cells(strides): _held(outputs) for strides, outputs in groups.items()}
    coarsest = max((cells for cells, own in held.items() if own), default=0)
    trunk = max((one.behind for one in every if one.behind & held.get(coarsest, 0)), key=int.bit_count, default=0)
    found = dict(groups)
    for strides, outputs in groups.items():
        if _cells(strides) < coarsest:
            coarser = functools.reduce(operator.or_, (own for cells, own in held.items() if cells > _cells(strides)))
            kept = [output for output in outputs if output.output or _leads_on(output, trunk, coarser)]
            found[strides] = kept if any(output.layers for output in kept) else outputs
    return found


def _leads_on(output: InnerOutput, trunk: int, coarser: int) -> bool:
    return not output.behind & ~trunk or bool(output.behind & coarser)


def _held(outputs: Iterable[InnerOutput]) -> int:
    """The parameters of single layers, as bits."""
    layers = (output.held for output in outputs if not output.parent)
    return functools.reduce(operator.or_, layers, 0)


def _cells(strides: Strides) -> Fraction | int:
    """Input cells for each cell."""
    return math.prod(stride for _, stride in strides)
