"""Dynamic axes: ranges of sizes in the words of `torch.export`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.verification.sessions import Session
from autoadapt.contracts.signature import Signature, TensorSpec
from autoadapt.contracts.trees import rebuild
from autoadapt.saving.exporting.asked import check_asked
from autoadapt.saving.exporting.lone_cells import above_lone_cells
from autoadapt.saving.exporting.ranges import Given, SizeRange, size_ranges
from autoadapt.saving.wrappers import adapted_inside

UNITS = "_units"
"""What the name of an axis ends in where torch is to count steps of it."""


def dynamic_shapes(net: nn.Module, ranges: Given | None = None) -> dict[str, Any]:
    """What `torch.export.export` and `torch.onnx.export` take as `dynamic_shapes`, with the sizes at which it holds.

    Axes keep the names of the signature: `B`, `H`, `W`. A convolution or pooling that rounds makes torch ask for
    proofs which it cannot find, so `torch.export.export` needs `prefer_deferred_runtime_asserts_over_guards=True`;
    `torch.onnx.export` sets that itself.

    Args:
        net: The adapted module.
        ranges: Sizes by axis, where not all legal ones are wanted: `{"H": 640, "W": (64, 1024)}`.

    Returns:
        For each argument of `forward`, by name, its dynamic axes.

    Raises:
        ExportError: A given axis does not exist, or sizes are not legal.
        SavingError: It is no adapted module.

    Example:
        >>> from autoadapt.adapting import adapt
        >>> x = torch.zeros(2, 3, 8, 8)
        >>> net = adapt(nn.Conv2d(3, 5, 2, stride=2), like=nn.Conv2d(3, 8, 2, stride=2), inputs=x)
        >>> sorted(dynamic_shapes(net)["input"]), dynamic_shapes(net)["input"][2].min
        ([0, 2, 3], 4)
        >>> program = torch.export.export(
        ...     net,
        ...     (x,),
        ...     dynamic_shapes=dynamic_shapes(net),
        ...     prefer_deferred_runtime_asserts_over_guards=True,
        ... )
        >>> program.module()(torch.zeros(3, 3, 13, 21)).shape
        torch.Size([3, 8, 6, 10])
    """
    check_asked(ranges, None, 0.0)
    adapted = adapted_inside(net, "aa.dynamic_shapes")
    session = Session(adapted, adapted.signature)
    return shapes_of(adapted.signature, size_ranges(adapted.plan, ranges, partial(above_lone_cells, session)))


def shapes_of(signature: Signature, ranges: Mapping[str, SizeRange]) -> dict[str, Any]:
    """The dynamic axes of each argument, by name."""
    dims = {name: _as_dim(one) for name, one in ranges.items() if not one.fixed}
    leaves = [_Axes(_of(spec, dims)) for spec in signature.inputs.leaves]
    values = rebuild(signature.inputs.tree, leaves)
    shapes: dict[str, Any] = torch.utils._pytree.tree_map(lambda v: v.dims if isinstance(v, _Axes) else None, values)
    return shapes


class _Axes:
    """The dynamic axes of one tensor; no container, so that trees end here."""

    def __init__(self, dims: dict[int, Any]) -> None:
        self.dims = dims


def _of(spec: TensorSpec, dims: Mapping[str, Any]) -> dict[int, Any]:
    return {axis: dims[str(dim)] for axis, dim in enumerate(spec.dims) if str(dim) in dims}


def _as_dim(one: SizeRange) -> Any:
    """A dim of `torch.export`; multiples are said by a unit of their own."""
    if one.step == 1:
        return torch.export.Dim(one.axis, min=one.low, max=one.high)
    low, high = ((size - one.offset) // one.step if size is not None else None for size in (one.low, one.high))
    unit = torch.export.Dim(one.axis + UNITS, min=low, max=high)
    return unit * one.step + one.offset if one.offset else unit * one.step
