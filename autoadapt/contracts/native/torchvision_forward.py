"""torchvision's vision transformer with a forward pass for any multiple of its patch size; imports torchvision."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torchvision.models.vision_transformer import Encoder, VisionTransformer

__all__ = ["NativeEncoder", "NativeVisionTransformer", "resampled"]


class NativeVisionTransformer(VisionTransformer):  # type: ignore[misc]  # torchvision is untyped
    """The model whose class an object had before, at the size of each image.

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
    """The encoder, with its position embedding resampled for a grid.

    Shape:
        `[B, 1 + rows*columns, D] -> [B, 1 + rows*columns, D]`
    """

    def forward(self, tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        tokens = tokens + resampled(self.pos_embedding, rows, columns)
        read: torch.Tensor = self.ln(self.layers(self.dropout(tokens)))
        return read


def resampled(embedding_1ND: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A position embedding behind one class token, of a square grid, for another grid.

    Bicubic with antialiasing, as torchvision's own `interpolate_embeddings` and timm do it (the former without
    antialiasing); the same tensor where the grid is its own.

    Shape:
        `[1, 1 + side*side, D] -> [1, 1 + rows*columns, D]`
    """
    side = int((embedding_1ND.shape[1] - 1) ** 0.5)
    if rows == side and columns == side:
        return embedding_1ND
    cells = torch.unflatten(embedding_1ND[:, 1:].permute(0, 2, 1), 2, (side, side)).float()
    moved = F.interpolate(cells, (rows, columns), mode="bicubic", antialias=True, align_corners=False)
    rest = moved.to(embedding_1ND.dtype).flatten(2).permute(0, 2, 1)
    return torch.cat([embedding_1ND[:, :1], rest], dim=1)
