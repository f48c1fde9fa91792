"""Swin blocks as mmdet and mmseg run them, on images of any size.

Maps are padded to whole windows before they are shifted, timm's behind: tokens at the far edges see other neighbours
there. Windows keep their size on maps that are smaller.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn

# Dimension letters: B batch, H W cells, C channels.


class PaddedBlock(SwinTransformerBlock):
    """A block of timm's that pads before it shifts."""

    def _attn(self, map_BHWC: torch.Tensor) -> torch.Tensor:
        height, width = map_BHWC.shape[1:3]
        below, beside = (-size % window for size, window in zip((height, width), self.window_size, strict=True))
        found_BHWC: torch.Tensor = super()._attn(  # type: ignore[no-untyped-call]
            F.pad(map_BHWC, (0, 0, 0, beside, 0, below))
        )
        return found_BHWC[:, :height, :width]


def pad_windows(net: nn.Module) -> None:
    """Let a Swin transformer of timm pad images to whole patches, and maps to whole windows, as mmdet's does.

    Args:
        net: The model, made with `strict_img_size=False` and `always_partition=True`.
    """
    patches: Any = net.get_submodule("patch_embed")
    patches.dynamic_img_pad = True
    for module in net.modules():
        if isinstance(module, SwinTransformerBlock):
            module.__class__ = PaddedBlock
