"""Backbones of point clouds, written in either layout of their inputs and of what they return."""

from __future__ import annotations

import torch
from torch import nn


def farthest(points_BNK: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of points that lie apart, `[B, count]`, from the first on."""
    taken = [torch.zeros(len(points_BNK), dtype=torch.long, device=points_BNK.device)]
    apart_BN = torch.full_like(points_BNK[..., 0], float("inf"))
    while len(taken) < count:
        last_B1K = points_BNK.gather(1, taken[-1].view(-1, 1, 1).expand(-1, 1, points_BNK.shape[2]))
        apart_BN = torch.minimum(apart_BN, (points_BNK - last_B1K).square().sum(2))
        taken.append(apart_BN.argmax(1))
    return torch.stack(taken, 1)


def rows_of(tensor_BNC: torch.Tensor, index_BM: torch.Tensor) -> torch.Tensor:
    """Rows by number, `[B, M, C]`."""
    return tensor_BNC.gather(1, index_BM[..., None].expand(-1, -1, tensor_BNC.shape[2]))


def turned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(1, 2).contiguous()


class Sampled(nn.Module):
    """Features of sampled points, pooled over their nearest ones, and, if asked for, the points."""

    def __init__(self, points: int, channels: int, *, first: bool, coordinates: bool = False) -> None:
        super().__init__()
        self.points, self.first, self.coordinates = points, first, coordinates
        self.embed = nn.Linear(3, channels)
        self.mix = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        taken_BMK = rows_of(x, farthest(x, self.points))
        near_BMJ = torch.cdist(taken_BMK, x).topk(4, dim=2, largest=False)[1]
        found_BMC = torch.stack([rows_of(self.embed(x).relu(), near_BM) for near_BM in near_BMJ.unbind(2)]).amax(0)
        features = self.mix(found_BMC)
        layout = turned if self.first else torch.Tensor.contiguous
        return (layout(taken_BMK), layout(features)) if self.coordinates else layout(features)


class PerPoint(nn.Module):
    """Features of each point, and of the whole cloud beside them; channels first in and out, or last."""

    def __init__(self, channels: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.embed, self.mix = nn.Linear(channels, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features_BNC = self.embed(turned(x) if self.first else x).relu()
        found_BNC = self.mix(features_BNC + features_BNC.amax(1, keepdim=True))
        return turned(found_BNC) if self.first else found_BNC


class WithFeatures(nn.Module):
    """Points and features beside them, each in its own layout."""

    def __init__(self, channels: int, *, points_first: bool, first: bool) -> None:
        super().__init__()
        self.points_first, self.first = points_first, first
        self.embed = nn.Linear(3 + channels, 16)

    def forward(self, points: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        points_BNK = turned(points) if self.points_first else points
        features_BNC = turned(features) if self.first else features
        return rows_of(self.embed(torch.cat([points_BNK, features_BNC], 2)).relu(), farthest(points_BNK, 8))


class Distances(nn.Module):
    """Features of distances to the centre: any number of points, and of their columns, which no weight tells apart."""

    def __init__(self, *, first: bool, pooled: bool = False) -> None:
        super().__init__()
        self.first, self.pooled = first, pooled
        self.embed = nn.Linear(1, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        points_BNK = turned(x) if self.first else x
        found_BNC = self.embed((points_BNK - points_BNK.mean(1, keepdim=True)).norm(dim=2, keepdim=True))
        if self.pooled:
            return found_BNC.amax(1)
        return turned(found_BNC) if self.first else found_BNC
