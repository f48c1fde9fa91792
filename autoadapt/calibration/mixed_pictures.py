"""Mixed pictures: new pictures out of a caller's, by jitter, rotation and crops, as mosaics and with pasted patches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

JITTER = (0.4, 0.4, 0.4, 0.1)
"""Of brightness, contrast, saturation and hue, as torchvision's `ColorJitter` takes them."""
GREY = 0.15
"""Share of pictures without colour."""
DEGREES = 30.0
SMALLEST = 0.2
"""Least share of a picture's area that a crop keeps."""

# ruff: noqa: N815 - shapes stand in the names of tensors
# Dimension letters: C channels, H and W pixels.


@dataclass(frozen=True)
class Layers:
    """A picture, and what lies over it pixel by pixel: masks, depth.

    Shape:
        `picture_CHW`: `[C, H, W]`, values in 0..1; `over`: `[..., H, W]` each
    """

    picture_CHW: torch.Tensor
    over: tuple[torch.Tensor, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.picture_CHW.shape[-2], self.picture_CHW.shape[-1]


def mixed(number: int, parents: Sequence[Layers]) -> Layers:
    """A picture made of one or several, of the size of the first: one of three is a mosaic, one has patches of others.

    Draws from the generators of torch and Python.

    Args:
        number: How many were made before.
        parents: The picture itself, and others to take parts of. All carry the same layers.
    """
    first, others = parents[0], parents[1:] or parents
    if number % 3 == 1:
        return _mosaic([first, *random.choices(others, k=3)], first.size)
    made = _warped(first, first.size)
    return _patched(made, others) if number % 3 == 2 else made


def _mosaic(four: Sequence[Layers], size: tuple[int, int]) -> Layers:
    """Four pictures that meet at a point near the middle."""
    rows, columns = (_parted(length) for length in size)
    places = [(row, column) for row in rows for column in columns]
    random.shuffle(places)
    canvas = Layers(_of_size(four[0].picture_CHW, size), tuple(_of_size(one, size) for one in four[0].over))
    for layers, (row, column) in zip(four, places, strict=True):
        _paste(canvas, _warped(layers, (row.stop - row.start, column.stop - column.start)), row, column)
    return canvas


def _parted(length: int) -> tuple[slice, slice]:
    middle = min(max(round(length * random.uniform(0.35, 0.65)), 1), length - 1)
    return slice(0, middle), slice(middle, length)


def _patched(canvas: Layers, others: Sequence[Layers]) -> Layers:
    """One to three patches of other pictures pasted in."""
    for layers in random.choices(others, k=random.randint(1, 3)):
        row, column = (_part(length) for length in canvas.size)
        _paste(canvas, _warped(layers, (row.stop - row.start, column.stop - column.start)), row, column)
    return canvas


def _part(length: int) -> slice:
    """From a quarter to three fifths of an axis."""
    taken = max(round(length * random.uniform(0.25, 0.6)), 1)
    start = random.randint(0, length - taken)
    return slice(start, start + taken)


def _of_size(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return tensor.new_empty((*tensor.shape[:-2], *size))


def _paste(canvas: Layers, layers: Layers, row: slice, column: slice) -> None:
    canvas.picture_CHW[..., row, column] = layers.picture_CHW
    for under, over in zip(canvas.over, layers.over, strict=True):
        under[..., row, column] = over


def _warped(layers: Layers, size: tuple[int, int]) -> Layers:
    """Turned, cropped and in other colours, brought to a size."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    channels = layers.picture_CHW.shape[0]
    edge = _edge(layers.picture_CHW)
    steps: list[Any] = []
    if random.random() < 0.5:
        fill = {tv_tensors.Image: edge, "others": 0}
        steps.append(v2.RandomRotation(DEGREES, v2.InterpolationMode.BILINEAR, fill=fill))
    steps.append(v2.RandomResizedCrop(size, scale=(SMALLEST, 1.0), antialias=True))
    if channels in (1, 3):
        steps.append(v2.ColorJitter(*JITTER))
        steps.append(v2.RandomGrayscale(GREY))
    given = (tv_tensors.Image(layers.picture_CHW), *(tv_tensors.Mask(one) for one in layers.over))
    picture, *over = (one.as_subclass(torch.Tensor) for one in v2.Compose(steps)(given))
    return Layers(picture.clamp(0, 1), tuple(over))


def _edge(picture_CHW: torch.Tensor) -> list[float]:
    """Middle value of each channel along the border, which a turned picture is continued with."""
    border = (picture_CHW[:, 0], picture_CHW[:, -1], picture_CHW[:, :, 0], picture_CHW[:, :, -1])
    found: list[float] = torch.cat(border, dim=1).median(dim=1).values.tolist()
    return found
