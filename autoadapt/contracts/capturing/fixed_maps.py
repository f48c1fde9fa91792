"""Maps of fixed sizes: which of their axes list rows and columns, where no size depends on the image.

Adaptive pooling to 45 x 45 cells returns `[B, 256, 45, 45]` for any image. One real run on images with changed patches
shows which cells change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.devices import on_meta_device
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.ordering import run_on_images
from autoadapt.contracts.capturing.perturbing import CENTRES, axis_of_rows
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.trees import flatten
from autoadapt.contracts.views import eval_copy


def rows_of_fixed_maps(
    module: nn.Module, arguments: Arguments, axes: InputAxes, outputs: Mapping[int, Sequence[Dim]]
) -> dict[int, int]:
    """The axis that lists rows, of each output that is a map of fixed size; columns are on the next axis.

    Args:
        module: The module; a copy of it is run.
        arguments: Its example call, with an image.
        axes: Its input axes.
        outputs: Dims of its outputs, by number.

    Returns:
        The axes by number of the output, without outputs whose cells do not change where patches did; empty where the
        module does not run.
    """
    maps = {i: dims for i, dims in outputs.items() if _is_fixed_map(dims)}
    if not maps or on_meta_device(module):
        return {}
    model = eval_copy(module)
    cells = min(min(int(dim.constant or 1) for dim in dims[1:]) ** 2 for dims in maps.values())
    returned = run_on_images(model, arguments, axes, axes.example, max(cells, 16), CENTRES)
    if returned is None:
        return {}
    tensors = flatten(returned)[1]
    found = {i: axis_of_rows(tensors[i]) for i in maps if _is_batch(tensors[i])}
    return {i: axis for i, axis in found.items() if axis is not None}


def _is_fixed_map(dims: Sequence[Dim]) -> bool:
    return len(dims) == 4 and dims[0] == Dim.axis("B") and all((dim.constant or 0) > 1 for dim in dims[1:])


def _is_batch(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a sample for each of the images."""
    return tensor.is_floating_point() and len(tensor) == 1 + len(CENTRES)
