"""Given values: whether a call writes to its inputs."""

from __future__ import annotations

from typing import TypeAlias

import torch

from autoadapt.contracts.signature import Signature
from autoadapt.errors import Mismatch

Before: TypeAlias = list[tuple[torch.Tensor, int]]
"""Copies of tensors before a call, each with the version counter of the original."""


def as_given(tensors: list[torch.Tensor]) -> Before:
    """Copies of a call's inputs, to be made before the call and compared with them after it."""
    return [(tensor.detach().clone(), _version(tensor)) for tensor in tensors]


def written_inputs(signature: Signature, before: Before, after: list[torch.Tensor], where: str = "") -> list[Mismatch]:
    """Inputs that a call has written to, even equal values, unless the contract allows that.

    Args:
        signature: The contract.
        before: Made by `as_given` before the call.
        after: The same tensors after the call.
        where: Added to their names in mismatches, such as the sizes.
    """
    return [
        Mismatch(f"inputs.{name}{where}", "the values that it had", "written to by the call", "clone it first")
        for name, (old, version), tensor in zip(signature.inputs.paths, before, after, strict=False)
        if name not in signature.written and (version != _version(tensor) or not _same(old, tensor.detach()))
    ]


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left, right) or torch.equal(left.nan_to_num(), right.nan_to_num())
