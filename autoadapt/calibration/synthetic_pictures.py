"""Synthetic pictures: dead leaves, fractal noise and shapes; statistics of natural images without any image."""

from __future__ import annotations

import math
import random

import torch

LEAVES = 120
"""At most so many in a picture."""
SHAPES = 24

# Dimension letters: C channels, H and W pixels.


def synthetic(number: int, channels: int, size: tuple[int, int]) -> torch.Tensor:
    """A picture out of nothing: in turn dead leaves, fractal noise, and shapes on a gradient.

    Dead leaves are discs of all sizes that cover one another (Lee, Mumford and Huang, Occlusion models for natural
    images, 2001); such pictures alone teach early layers nearly what photographs do (Baradad et al., Learning to see
    by looking at noise, 2021). Draws from the generators of torch and Python.

    Args:
        number: How many were made before.
        channels: How many colours.
        size: Height and width in pixels.

    Shape:
        `[C, H, W]`, values in 0..1

    Example:
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> [tuple(synthetic(kind, 3, (16, 24)).shape) for kind in range(3)]
        [(3, 16, 24), (3, 16, 24), (3, 16, 24)]
    """
    kinds = (_dead_leaves, _fractal, _shapes)
    return kinds[number % len(kinds)](channels, size).clamp(0, 1)


def _fractal(channels: int, size: tuple[int, int]) -> torch.Tensor:
    """Noise whose spectrum falls with a power of the frequency, its channels mixed so that colours go together."""
    height, width = size
    down, across = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = (down.square() + (across * random.uniform(0.6, 1.6)).square()).sqrt().clamp_min(1 / max(size))
    spectrum = torch.fft.rfft2(torch.randn(channels, height, width)) / frequency ** random.uniform(0.8, 2.0)
    noise_CHW = torch.fft.irfft2(spectrum, s=size)
    noise_CHW = noise_CHW / noise_CHW.std().clamp_min(1e-6)
    mixing = torch.randn(channels, channels) * 0.5 + 1.0
    noise_CHW = torch.einsum("dc,chw->dhw", mixing / mixing.norm(dim=1, keepdim=True), noise_CHW)
    return _colour(channels) + random.uniform(0.08, 0.25) * noise_CHW


def _colour(channels: int) -> torch.Tensor:
    """A colour as often grey as bright, `[C, 1, 1]`."""
    grey, share = random.random(), random.uniform(0.1, 0.8)
    return torch.tensor([grey + share * (random.random() - grey) for _ in range(channels)])[:, None, None]


def _grid(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of all pixels."""
    return torch.arange(size[0])[:, None].float(), torch.arange(size[1])[None].float()


def _gradient(channels: int, size: tuple[int, int]) -> torch.Tensor:
    row, column = _grid(size)
    angle = random.uniform(0, 2 * math.pi)
    along_HW = (row / size[0] - 0.5) * math.sin(angle) + (column / size[1] - 0.5) * math.cos(angle) + 0.5
    return torch.lerp(_colour(channels), _colour(channels), along_HW.clamp(0, 1)[None])


def _dead_leaves(channels: int, size: tuple[int, int]) -> torch.Tensor:
    """Discs and squares whose radius is as often small as large, each shaded and grained."""
    picture_CHW = _gradient(channels, size)
    grain_HW = _fractal(1, size)[0] - 0.5
    least, most = max(min(size) / 60, 1.0), min(size) / 3
    for _ in range(min(LEAVES, *size)):
        radius = least / (1 - random.random() * (1 - least / most))  # its density falls with its square
        radius *= random.choice((1.0, 2.0))
        _stamp(picture_CHW, grain_HW, radius, corners=random.choice((0, 0, 0, 4, 4)))
    return picture_CHW


def _shapes(channels: int, size: tuple[int, int]) -> torch.Tensor:
    """A few large shapes: discs, triangles, squares, polygons."""
    picture_CHW = _gradient(channels, size)
    grain_HW = _fractal(1, size)[0] - 0.5
    for _ in range(random.randint(3, SHAPES)):
        _stamp(picture_CHW, grain_HW, random.uniform(0.05, 0.35) * min(size), corners=random.choice((0, 3, 4, 5, 6)))
    return picture_CHW


def _stamp(picture_CHW: torch.Tensor, grain_HW: torch.Tensor, radius: float, *, corners: int) -> None:
    """Paint one shape over what is there; only the pixels around it are touched."""
    channels, height, width = picture_CHW.shape
    top, left = random.uniform(0, height), random.uniform(0, width)
    rows = slice(max(int(top - radius), 0), min(int(top + radius) + 2, height))
    columns = slice(max(int(left - radius), 0), min(int(left + radius) + 2, width))
    down = torch.arange(rows.start - top, rows.stop - top)[: rows.stop - rows.start, None] / radius
    across = torch.arange(columns.start - left, columns.stop - left)[None, : columns.stop - columns.start] / radius
    across = across * random.uniform(1.0, 2.0)
    distance_HW = torch.hypot(down, across)
    if corners:
        step = 2 * math.pi / corners
        turned = torch.atan2(down, across) + random.uniform(0, step)
        distance_HW = distance_HW * torch.cos(turned.remainder(step) - step / 2) / math.cos(step / 2)
    shade_HW = grain_HW[rows, columns] * random.uniform(0, 1.2) + (1 + random.uniform(-0.3, 0.3) * distance_HW)
    part = picture_CHW[:, rows, columns]
    torch.where(distance_HW <= 1, _colour(channels) * shade_HW, part, out=part)
