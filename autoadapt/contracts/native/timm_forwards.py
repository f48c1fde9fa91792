"""Models of timm that have no mode for other sizes, with a forward pass that resamples what depends on it."""

from __future__ import annotations

import torch
from timm.models.cait import Cait
from timm.models.pit import PoolingVisionTransformer
from timm.models.volo import VOLO
from torch.utils.checkpoint import checkpoint

from autoadapt.contracts.native.positions import resampled_map, resampled_tokens

__all__ = ["NativeCait", "NativePit", "NativeVolo"]


class NativeCait(Cait):
    """The model whose class an object had before, at the size of each image.

    Shape:
        `[B, 3, H, W] -> [B, classes]`, H and W multiples of the patch size
    """

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        patch: tuple[int, int] = vars(self.patch_embed)["patch_size"]
        rows, columns = (size // by for size, by in zip(x.shape[2:], patch, strict=True))
        tokens = self.pos_drop(self.patch_embed(x) + resampled_tokens(self.pos_embed, rows, columns))
        for block in self.blocks:
            tokens = _run(self, block, tokens)
        if self.blocks_token_only is not None:
            tokens = self.forward_cls(tokens)  # type: ignore[no-untyped-call]  # as above
        normed: torch.Tensor = self.norm(tokens)
        return normed


class NativePit(PoolingVisionTransformer):
    """The same of PiT.

    Shape:
        `[B, 3, H, W] -> [B, classes]`
    """

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(x)
        patches = self.pos_drop(patches + resampled_map(self.pos_embed, patches.shape[2], patches.shape[3]))
        _, read = self.transformers((patches, self.cls_token.expand(x.shape[0], -1, -1)))
        normed: torch.Tensor = self.norm(read)
        return normed


class NativeVolo(VOLO):
    """The same of VOLO, whose positions are added behind its outlookers.

    Shape:
        `[B, 3, H, W] -> [B, classes]`
    """

    def forward_tokens(self, x: torch.Tensor) -> torch.Tensor:
        for index, block in enumerate(self.network):
            if index == 2 and self.pos_embed is not None:
                positions = resampled_map(self.pos_embed.permute(0, 3, 1, 2), x.shape[1], x.shape[2])
                x = self.pos_drop(x + positions.permute(0, 2, 3, 1))
            x = _run(self, block, x)
        return x.reshape(x.shape[0], -1, x.shape[3])


def _run(model: torch.nn.Module, block: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A block, or a block that is run again in the backward pass where the model was set so."""
    made: torch.Tensor = checkpoint(block, x, use_reentrant=False) if model.grad_checkpointing else block(x)
    return made
