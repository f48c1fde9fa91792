"""Layers that adapters are made of, beyond those that torch has. Imports torch alone, so that source can inline them."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["conv1x1", "linear", "recover_indices"]

# Dimension letters: B batch, M points taken, N points to take from, K columns of a point.


def linear(source: int, target: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer on the last axis that keeps the variance of its input.

    Shape:
        `[*, source] -> [*, target]`
    """
    layer = nn.Linear(source, target, bias=bias)
    keep_variance_(layer, source)
    return layer


def conv1x1(source: int, target: int, *, spatial: int, bias: bool = True) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """A 1x1 convolution over one to three spatial axes that keeps the variance of its input.

    Shape:
        `[B, source, *spatial] -> [B, target, *spatial]`
    """
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[spatial - 1](source, target, 1, bias=bias)
    keep_variance_(layer, source)
    return layer


def keep_variance_(layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, source: int) -> None:
    """Weights of variance 1/source and no offset.

    LeCun et al., Efficient BackProp (1998), section 4.6: independent inputs of unit variance give outputs of unit
    variance.
    """
    nn.init.normal_(layer.weight, std=source**-0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def recover_indices(points_BMK: torch.Tensor, values_BNK: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """For each point the first row of the values that is the same, bit for bit.

    Shape:
        points `[B, M, K]`, values `[B, N, >= K]` -> `[B, M]`

    Raises:
        ValueError: A point is no row of the values; not checked in compiled code.
    """
    rows_BNK = values_BNK[..., : points_BMK.shape[-1]]
    found, exact = [], []
    for part_BmK in points_BMK.split(256, dim=1):  # bounds the memory of the comparison
        same_BmN = (part_BmK.unsqueeze(2) == rows_BNK.unsqueeze(1)).all(-1)
        found.append(same_BmN.int().argmax(-1))
        exact.append(same_BmN.any(-1))
    if not torch.compiler.is_compiling() and not bool(torch.cat(exact, dim=1).all()):
        raise ValueError("a coordinate is no row of the input, so its index cannot be recovered")
    return torch.cat(found, dim=1).to(dtype)
