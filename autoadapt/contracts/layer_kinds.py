"""Layer kinds: which of torch's layers are convolutions, project channels, or count as layers of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PROJECTING = (nn.Linear, *CONVOLUTIONS)
"""Those that mix the channels of each place, and may mix neighbours."""
COUNTED = (*PROJECTING, *TRANSPOSED)
"""Those whose number says how much of a network a module is."""


def multiply_adds(layer: nn.Module, made: Sequence[int]) -> int:
    """Multiply-adds of a convolution or linear layer for an output of a shape; 0 for other modules.

    Example:
        >>> multiply_adds(nn.Conv2d(4, 8, 3, groups=2), (1, 8, 5, 5)), multiply_adds(nn.ReLU(), (1, 8))
        (3600, 0)
    """
    match layer:  # not by its weight: reading a parametrised one may change buffers
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return math.prod(made) * (layer.in_channels // layer.groups) * math.prod(layer.kernel_size)
        case nn.Linear():
            return math.prod(made) * layer.in_features
        case _:
            return 0
