"""torchvision's vision transformer with a forward pass for any multiple of its patch size; imports torchvision."""

from __future__ import annotations

import torch
from torchvision.models.vision_transformer import Encoder, VisionTransformer

from autoadapt.contracts.native.positions import resampled_tokens


class NativeVisionTransformer(VisionTransformer):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's vision transformer at the size of each image.

    Shape:
        `[B, 3, H, W] -> [B, classes]`, H and W multiples of the patch size
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.conv_proj(x)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches.flatten(2).permute(0, 2, 1)], dim=1)
        read: torch.Tensor = self.encoder(tokens, patches.shape[2], patches.shape[3])
        scores: torch.Tensor = self.heads(read[:, 0])
        return scores


class NativeEncoder(Encoder):  # type: ignore[misc]  # as above
    """Its encoder, with the position embedding resampled for a grid.

    Shape:
        `[B, 1 + rows*columns, D] -> [B, 1 + rows*columns, D]`
    """

    def forward(self, tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        tokens = tokens + resampled_tokens(self.pos_embedding, rows, columns, prefix=1)
        read: torch.Tensor = self.ln(self.layers(self.dropout(tokens)))
        return read
