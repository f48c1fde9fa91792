"""Roles: whether outputs are features, coordinates, indices or masks, by their values in one real run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch

from autoadapt.contracts.signature import Gathering, Role

# Dimension letters: B batch, N points of the source, M gathered points, K columns of a point.
Tensors: TypeAlias = Mapping[str, torch.Tensor]
PointAxis: TypeAlias = Literal[1, 2]

_LAYOUTS: tuple[tuple[PointAxis, PointAxis], ...] = ((1, 1), (2, 2), (1, 2), (2, 1))
"""The axis of points in the source and in the gathered tensor; where several fit, the first counts."""


def may_have_roles(
    inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
) -> bool:
    """Whether shapes and dtypes allow indices or coordinates, so that a real run is needed to tell."""
    clouds = [n for one in inputs.values() if one.dim() == 3 and one.is_floating_point() for n in one.shape[1:]]
    for shape, dtype in outputs.values():
        if not dtype.is_floating_point and dtype is not torch.bool:
            return True
        few = min(shape[1:]) if len(shape) == 3 else 0
        if 2 <= few <= 3 and any(few <= columns for columns in clouds):
            return True
    return False


def find_gatherings(inputs: Tensors, outputs: Tensors) -> tuple[Gathering, ...]:
    """All triples of an index output, a source and an output that holds exactly the points gathered from the source.

    The source is an input or another output; either may list points on its axis 1 or 2.
    """
    sources = {f"inputs.{path}": tensor for path, tensor in inputs.items()} | dict(outputs)
    indices = {path: tensor for path, tensor in outputs.items() if _may_index(tensor)}
    points = {path: tensor for path, tensor in outputs.items() if _as_points(tensor)}
    found = []
    for index_path, index_BM in indices.items():
        for result_path, result in points.items():
            for source_path, values in sources.items():
                axes = _point_axes(values, index_BM, result) if source_path != result_path else None
                if axes is not None:
                    found.append(
                        Gathering(
                            values=source_path,
                            stop=result.shape[3 - axes[1]],
                            index=index_path,
                            result=result_path,
                            values_axis=axes[0],
                            result_axis=axes[1],
                        )
                    )
    return tuple(found)


def holds(gathering: Gathering, tensors: Tensors) -> bool:
    """Whether an invariant holds for the values of one call.

    Args:
        gathering: The invariant.
        tensors: Outputs by path, and inputs by `inputs.` and path.
    """
    values, result = tensors[gathering.values], tensors[gathering.result]
    rows_BNK, points_BMK = _in_rows(values, gathering.values_axis), _in_rows(result, gathering.result_axis)
    return _gathers(rows_BNK, tensors[gathering.index], points_BMK)


def find_roles(inputs: Tensors, outputs: Tensors, gatherings: tuple[Gathering, ...]) -> dict[str, Role]:
    """The role of each output, by its values.

    Integers of a gathering are indices, and its result are coordinates. So are floats whose points all are points of an
    input, even if no index says which. Other integers are `other`; booleans are masks.
    """
    roles: dict[str, Role] = {}
    clouds = [rows for values in inputs.values() for rows in _either_way(values)]
    for path, tensor in outputs.items():
        if any(gathering.index == path for gathering in gatherings):
            roles[path] = "index"
        elif any(gathering.result == path for gathering in gatherings):
            roles[path] = "coordinate"
        elif tensor.dtype is torch.bool:
            roles[path] = "mask"
        elif not tensor.is_floating_point() and not tensor.is_complex():
            roles[path] = "other"
        elif any(_holds_rows(cloud, points) for points in _as_points(tensor) for cloud in clouds):
            roles[path] = "coordinate"
        else:
            roles[path] = "feature"
    return roles


def value_ranges(inputs: Tensors) -> dict[str, tuple[int, int]]:
    """Smallest and largest value of each integer tensor, by path."""
    integers = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    return {path: (int(tensor.min()), int(tensor.max())) for path, tensor in inputs.items() if tensor.dtype in integers}


def _may_index(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 2 and tensor.dtype in (torch.int32, torch.int64, torch.int16) and tensor.numel() > 0


def _is_points(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 3 and tensor.is_floating_point() and tensor.shape[-1] in (2, 3) and tensor.numel() > 0


def _as_points(tensor: torch.Tensor) -> list[torch.Tensor]:
    """A tensor as points `[B, N, K]`: as it is and transposed, where that may be points."""
    return [rows for rows in _either_way(tensor) if _is_points(rows)]


def _either_way(tensor: torch.Tensor) -> list[torch.Tensor]:
    return [tensor, tensor.transpose(1, 2)] if tensor.dim() == 3 else []


def _in_rows(tensor: torch.Tensor, axis: PointAxis) -> torch.Tensor:
    return tensor.transpose(1, 2) if axis == 2 and tensor.dim() == 3 else tensor


def _point_axes(
    values: torch.Tensor, index_BM: torch.Tensor, result: torch.Tensor
) -> tuple[PointAxis, PointAxis] | None:
    """The axes of points with which the result is gathered from the values; None where it is not."""
    for values_axis, result_axis in _LAYOUTS:
        points_BMK = _in_rows(result, result_axis)
        if _is_points(points_BMK) and _gathers(_in_rows(values, values_axis), index_BM, points_BMK):
            return values_axis, result_axis
    return None


def _is_cloud(values: torch.Tensor, points: torch.Tensor) -> bool:
    return (
        values.dim() == 3
        and values.is_floating_point()
        and values.shape[0] == points.shape[0]
        and values.shape[2] >= points.shape[2]
    )


def _gathers(values_BNK: torch.Tensor, index_BM: torch.Tensor, result_BMK: torch.Tensor) -> bool:
    """Whether the indexed rows of the values equal the result, bit for bit; their further columns are ignored."""
    if not _is_cloud(values_BNK, result_BMK) or index_BM.shape != result_BMK.shape[:2]:
        return False
    if int(index_BM.min()) < 0 or int(index_BM.max()) >= values_BNK.shape[1]:
        return False
    columns = result_BMK.shape[2]
    rows = index_BM.long().unsqueeze(-1).expand(-1, -1, columns)
    return torch.equal(values_BNK[..., :columns].gather(1, rows), result_BMK)


def _holds_rows(values_BNK: torch.Tensor, points_BMK: torch.Tensor) -> bool:
    """Whether every point equals, bit for bit, some row of the values of its own sample."""
    if not _is_cloud(values_BNK, points_BMK) or values_BNK.dtype != points_BMK.dtype:
        return False
    columns = points_BMK.shape[2]
    for cloud_NK, points_MK in zip(values_BNK[..., :columns].cpu(), points_BMK.cpu(), strict=True):
        rows = {row.tobytes() for row in cloud_NK.contiguous().numpy()}
        if any(row.tobytes() not in rows for row in points_MK.contiguous().numpy()):
            return False
    return True
