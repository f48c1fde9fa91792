"""A spec: what is known about a tensor without touching its values."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """Name, shape and dtype of one tensor, in a checkpoint or in a model.

    Args:
        name: Dotted state-dict key.
        shape: Sizes of the axes.
        dtype: As torch prints it, without the `torch.`.

    Example:
        >>> Spec("fc.weight", (1000, 512), "float32").numel
        512000
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def numel(self) -> int:
        """Number of elements; one for a scalar."""
        return math.prod(self.shape)


def is_sharded(value: object) -> bool:
    """Whether a value is a tensor of which each rank holds a part."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(value, tensors.DTensor)


def parent(name: str) -> str:
    """The dotted path of the module that owns a tensor.

    Example:
        >>> parent("layer1.0.bn1.weight"), parent("cls_token")
        ('layer1.0.bn1', '')
    """
    return name.rpartition(".")[0]


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as people write it.

    Example:
        >>> shape_text((17, 32, 1, 1)), shape_text(())
        ('17x32x1x1', 'scalar')
    """
    return "x".join(map(str, shape)) or "scalar"
