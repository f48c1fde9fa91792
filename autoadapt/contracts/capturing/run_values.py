"""Run values: whether the outputs of two runs are equal, are finite, and whether a module keeps tensors of a call."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.instances import parts_of


def are_equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors are equal up to rounding, since kernels on accelerators may sum in any order."""
    left, right = _computable(left.detach()), _computable(right.detach())
    if torch.equal(left, right):
        return True  # nearly always, at a tenth of the cost
    if left.shape != right.shape:
        return False
    if left.is_complex():
        left, right = torch.view_as_real(left), torch.view_as_real(right)
    if not left.is_floating_point():
        return bool(torch.equal(left, right))
    left, right = left.double(), right.double()
    scale = float(left[left.isfinite()].abs().max()) if left.isfinite().any() else 0.0
    return torch.allclose(left, right, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    values = _computable(tensor)
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())  # a sum is quick, but may overflow


def _computable(tensor: torch.Tensor) -> torch.Tensor:
    """Floats of eight bits as float32: torch cannot compute with them, and up to 2.5 not compare them."""
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize == 1 else tensor


def keeps_a_call(module: nn.Module, tensors: Collection[torch.Tensor]) -> bool:
    """Whether a module holds a tensor of the shape of one of a call, and may use it in the next call.

    Example:
        >>> layer, x = nn.Identity(), torch.ones(1, 3, 8, 8)
        >>> before = keeps_a_call(layer, [x])
        >>> layer.last = [x.clone()]
        >>> before, keeps_a_call(layer, [x])
        (False, True)
    """
    shapes = {tensor.shape for tensor in tensors if tensor.dim() > 1}
    return any(tensor.shape in shapes for part in parts_of(module) for tensor in _held(part))


def _held(part: nn.Module) -> Iterator[torch.Tensor]:
    values: list[Any] = [*part._buffers.values()]
    for name, value in vars(part).items():
        if name not in ("_parameters", "_modules", "_buffers"):
            values += value.values() if isinstance(value, dict) else value if _is_listed(value) else [value]
    yield from (one for one in values if isinstance(one, torch.Tensor) and not isinstance(one, nn.Parameter))


def _is_listed(value: Any) -> bool:
    return isinstance(value, (list, tuple, collections.deque)) and len(value) <= _LONGEST


_LONGEST = 100
