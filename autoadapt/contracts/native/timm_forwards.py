"""Models of timm without `dynamic_img_size`, as subclasses whose forward pass resamples position embeddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from timm.models.beit import Attention, Beit
from timm.models.cait import Cait
from timm.models.pit import PoolingVisionTransformer
from timm.models.visformer import Visformer
from timm.models.volo import VOLO
from torch.utils.checkpoint import checkpoint

from autoadapt.contracts.native.positions import relative_biases, resampled_map, resampled_tokens


class NativeCait(Cait):
    """CaiT at the size of each image; an object of `Cait` is given this class.

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
    """PiT at the size of each image.

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
    """VOLO at the size of each image; positions are added after the outlooker blocks.

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


class NativeVisformer(Visformer):
    """Visformer at the size of each image, with position embeddings at each of its three stages.

    Shape:
        `[B, 3, H, W] -> [B, classes]`
    """

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.stem is None else self.stem(x)
        for number in (1, 2, 3):
            patches, positions = getattr(self, f"patch_embed{number}"), getattr(self, f"pos_embed{number}", None)
            x = x if patches is None else patches(x)
            if patches is not None and positions is not None:
                x = self.pos_drop(x + resampled_map(positions, x.shape[2], x.shape[3]))
            x = _run(self, getattr(self, f"stage{number}"), x)
        normed: torch.Tensor = self.norm(x)
        return normed


class NativeBeit(Beit):
    """BEiT at the size of each image, with relative position biases in its attention.

    Shape:
        `[B, 3, H, W] -> [B, classes]`, H and W multiples of the patch size
    """

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        patch: tuple[int, int] = vars(self.patch_embed)["patch_size"]
        rows, columns = (size // by for size, by in zip(x.shape[2:], patch, strict=True))
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), self.patch_embed(x)], dim=1)
        if self.pos_embed is not None:
            tokens = tokens + resampled_tokens(self.pos_embed, rows, columns, prefix=1)
        tokens = self.pos_drop(tokens)
        for block in self.blocks:
            holder = block.get_submodule("attn") if self.rel_pos_bias is None else self.rel_pos_bias
            table, bias = holder.relative_position_bias_table, None
            if table is not None:
                bias = relative_biases(table, holder.window_size, rows, columns)
                bias = bias if self.rel_pos_bias is None else bias[0]  # as it is shared, so that rounding is the same
            tokens = _run(self, partial(block, shared_rel_pos_bias=bias), tokens)
        normed: torch.Tensor = self.norm(tokens)
        return normed


class NativeBeitAttention(Attention):
    """BEiT's attention without biases of its own: `NativeBeit` passes those for the grid of the image.

    Shape:
        `[B, N, D] -> [B, N, D]`
    """

    def _get_rel_pos_bias(self) -> torch.Tensor:
        return self.relative_position_bias_table.new_zeros(1)


def _run(model: torch.nn.Module, block: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Run a block, with gradient checkpointing where the model has that switched on."""
    made: torch.Tensor = checkpoint(block, x, use_reentrant=False) if model.grad_checkpointing else block(x)
    return made
