"""Preprocessors: what is done to the pixels before the backbone, a part of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.assembly.registry import register

_LARGEST_DIVISOR = 1024

# Dimension letters: B batch, C channels, H W pixels.


class ImagePreprocessor(nn.Module):
    """Order of the channels, mean, spread and padding of images, in this order, as mmengine's `ImgDataPreprocessor`.

    Args:
        mean: Of each channel, in units of the pixels, mostly 0 to 255, in the order after the exchange.
        std: Likewise what the difference is divided by.
        bgr_to_rgb: Whether the first and the last of three channels change places.
        rgb_to_bgr: The same.
        to_rgb: The same, as mmpretrain calls it.
        pad_size_divisor: Right and bottom are filled up to a multiple of this number of pixels.
        pad_value: With what, after the division.
        pad_val: The same, as mmseg calls it.
        non_blocking: Of no effect here: nothing is moved.

    Shape:
        `[B, C, H, W]` of any number type -> `f32[B, C, H', W']`, H and W rounded up to the multiple

    Raises:
        ValueError: One of `mean` and `std` is there, they are not of equal length, or sizes are to be multiples of
            more than 1024 pixels.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        to_rgb: bool = False,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        pad_val: float = 0,
        non_blocking: bool = False,
    ) -> None:
        super().__init__()
        if bgr_to_rgb and rgb_to_bgr:
            raise ValueError("bgr_to_rgb and rgb_to_bgr are one exchange: say one of them")
        if len(mean or ()) != len(std or ()):
            raise ValueError(f"mean and std go together, got {len(mean or ())} and {len(std or ())} values")
        if not 1 <= pad_size_divisor <= _LARGEST_DIVISOR:
            raise ValueError(f"pad_size_divisor is 1 to {_LARGEST_DIVISOR} pixels, got {pad_size_divisor}")
        means_C, stds_C = torch.tensor([float(m) for m in mean or (0,)]), torch.tensor([float(s) for s in std or (1,)])
        self.register_buffer("mean", means_C[:, None, None], persistent=False)
        self.register_buffer("std", stds_C[:, None, None], persistent=False)
        self._exchanges = bgr_to_rgb or rgb_to_bgr or to_rgb
        self._divisor, self._value = pad_size_divisor, pad_value or pad_val

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Bring images to what the backbone was trained on."""
        if len(self.mean) not in (1, images_BCHW.shape[1]):
            raise ValueError(f"mean has {len(self.mean)} channels, the images have {images_BCHW.shape[1]}")
        if self._exchanges:
            images_BCHW = images_BCHW[:, [2, 1, 0]]
        images_BCHW = (images_BCHW.to(self.mean.dtype) - self.mean) / self.std
        height, width = images_BCHW.shape[2:]
        below, right = -height % self._divisor, -width % self._divisor
        return F.pad(images_BCHW, (0, right, 0, below), value=self._value) if below or right else images_BCHW


class RegisteredPreprocessor(nn.Module):
    """A preprocessor of mmengine's registry: it takes and gives a mapping with the images in it.

    It runs as it does in evaluation: what it does only in training changes targets too, and belongs to the loop.

    Shape:
        as its own
    """

    def __init__(self, preprocessor: nn.Module) -> None:
        super().__init__()
        self.preprocessor = preprocessor

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Hand the images to it."""
        found: dict[str, Any] = self.preprocessor({"inputs": images_BCHW, "data_samples": None}, False)
        images: torch.Tensor = found["inputs"]
        return images


_NAMES = ("ImagePreprocessor", "ImgDataPreprocessor", "ClsDataPreprocessor", "DetDataPreprocessor")

for _name in (*_NAMES, "SegDataPreProcessor"):
    _register: Callable[[type[ImagePreprocessor]], type[ImagePreprocessor]] = register("preprocessor", _name)
    _register(ImagePreprocessor)
