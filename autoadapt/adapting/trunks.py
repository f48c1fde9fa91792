"""Trunks: what leads on to deeper levels, apart from branches that end beside it, such as auxiliary heads."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

from autoadapt.contracts.signature import InnerOutput

__all__ = ["without_branches"]

Strides: TypeAlias = tuple[tuple[str, Fraction], ...]


def without_branches(groups: Mapping[Strides, Sequence[InnerOutput]]) -> dict[Strides, Sequence[InnerOutput]]:
    """Feature maps by stride, without those that end beside the trunk where others of their stride are part of it.

    The trunk is what stands behind the map that depends on layers of the coarsest stride, and of such maps on most
    parameters. A map beside it depends on parameters that the trunk does without, and on no layer of a coarser stride:
    so the levels of a top-down path, and branches of several strides that are joined again and again, are part of it.
    At its coarsest stride all maps are.

    Args:
        groups: What inner modules return, by stride.
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
    """Pixels a cell."""
    return math.prod(stride for _, stride in strides)
