"""Small whole models around a part that is swapped: a graph network with attention layers, an oriented detector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

GROUPS = (1, 8, 5, 10, 5, 10, 7, 10, 6, 6, 5, 7)
"""How many nodes each of the twelve inner attention layers sees."""


class GroupAttention(nn.Module):
    """Attention of the nodes of a group to each other, `[B, N, C] -> [B, N, C]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.map = nn.Linear(channels, channels)
        self.score = nn.Linear(2 * channels, 1)

    def forward(self, nodes_BNC: torch.Tensor) -> torch.Tensor:
        mapped_BNC = self.map(nodes_BNC)
        count = mapped_BNC.size(1)
        left = mapped_BNC.unsqueeze(2).expand(-1, -1, count, -1)
        right = mapped_BNC.unsqueeze(1).expand(-1, count, -1, -1)
        weight_BNN = self.score(torch.cat([left, right], dim=-1)).squeeze(-1).softmax(-1)
        return F.elu(weight_BNN @ mapped_BNC)


class Heads(nn.Module):
    """Attention among twelve groups and within each; `[B, 512] -> [B, 80]`."""

    def __init__(self, wide: int = 512, narrow: int = 256) -> None:
        super().__init__()
        self.gat1 = GroupAttention(wide)
        self.gat2s = nn.ModuleList(GroupAttention(narrow) for _ in GROUPS)
        self.spread = nn.Linear(wide, 12 * wide)
        self.down = nn.Linear(wide, narrow)
        self.last = nn.Linear(narrow, 1)

    def forward(self, pooled_BC: torch.Tensor) -> torch.Tensor:
        groups = self.down(self.gat1(self.spread(pooled_BC).unflatten(1, (12, -1))))
        labels = []
        for i, count in enumerate(GROUPS):
            labels.append(self.gat2s[i](groups[:, i : i + 1].expand(-1, count, -1)))
        return self.last(torch.cat(labels, dim=1)).squeeze(-1)


class GraphNetwork(nn.Module):
    """A truncated network over images and heads over graphs: `[B, 3, H, W] -> [B, 80]`."""

    def __init__(self, wide: int = 512, narrow: int = 256) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 7, stride=4, padding=3), nn.ReLU(), nn.Conv2d(16, wide, 9, stride=8, padding=4)
        )
        self.heads = Heads(wide, narrow)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.heads(self.features(image).amax((2, 3)))


class Levels(nn.Module):
    """A backbone that returns a list of six: the image itself, then strides 2, 4, 8, 16, 32, sizes rounded up."""

    def __init__(self, widths: tuple[int, ...] = (64, 256, 512, 1024, 2048)) -> None:
        super().__init__()
        pairs = zip((3, *widths), widths, strict=False)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        levels = [image]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return levels


class Combine(nn.Module):
    """Brings the deeper level to the size of the shallower one and joins them."""

    def __init__(self, deep: int, shallow: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(deep, shallow, 1)
        self.join = nn.Conv2d(2 * shallow, shallow, 1)

    def forward(self, deep: torch.Tensor, shallow: torch.Tensor) -> torch.Tensor:
        resized = F.interpolate(self.up(deep), shallow.shape[2:], mode="bilinear", align_corners=False)
        return F.relu(self.join(torch.cat([shallow, resized], dim=1)))


class OrientedDetector(nn.Module):
    """Boxes with an angle: the decoder reads the last four of six levels; heads at a quarter of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.base_network = Levels()
        self.dec_c2 = Combine(512, 256)
        self.dec_c3 = Combine(1024, 512)
        self.dec_c4 = Combine(2048, 1024)
        self.heads = nn.ModuleDict(
            {name: nn.Conv2d(256, width, 1) for name, width in (("hm", 15), ("wh", 10), ("reg", 2), ("cls_theta", 1))}
        )

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.base_network(image)
        c4 = self.dec_c4(x[-1], x[-2])
        c3 = self.dec_c3(c4, x[-3])
        c2 = self.dec_c2(c3, x[-4])
        return {name: head(c2) for name, head in self.heads.items()}
