"""Modules that average positions: what comes out of them on a ramp says where their cells lie."""

import torch
from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def averaging(spatial, kernel, channels=2, **geometry):
    """A convolution that averages each channel over its window."""
    layer = CONVOLUTIONS[spatial - 1](channels, channels, kernel, groups=channels, bias=False, **geometry)
    nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    return layer


def ramp(spatial, size, channels=2):
    """A batch of one whose values are positions along the first spatial axis."""
    line = torch.arange(size, dtype=torch.float32).reshape(-1, *[1] * (spatial - 1))
    return line.expand(1, channels, *[size] * spatial).contiguous()


def inner_cells(net, spatial, size):
    """Positions of the cells along the first spatial axis in the middle of the others, and which see no padding."""
    with torch.no_grad():
        positions, whole = net(ramp(spatial, size)), net(torch.ones_like(ramp(spatial, size)))
    middle = tuple(n // 2 for n in positions.shape[3:])
    return positions[(0, 0, slice(None), *middle)], whole[(0, 0, slice(None), *middle)] > 1 - 1e-5
