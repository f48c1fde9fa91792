"""A detector around a point-cloud backbone, which reads three of thirteen outputs and hands all on to its loss."""

from __future__ import annotations

import torch
from point_clouds import PointNet
from torch import nn


class PointDetector(nn.Module):
    """Votes from the features of the backbone's points."""

    def __init__(self, columns: int = 1) -> None:
        super().__init__()
        self.backbone_net = PointNet(columns)
        self.head = nn.Conv1d(288, 7, 1)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`inputs["point_clouds"] [B, N, 3 + C]`."""
        end_points: dict[str, torch.Tensor] = {}
        end_points = self.backbone_net(inputs["point_clouds"], end_points)
        features, xyz = end_points["fp2_features"], end_points["fp2_xyz"]
        end_points["seed_inds"] = end_points["fp2_inds"]
        end_points["seed_xyz"] = xyz
        end_points["center"] = xyz + self.head(features)[:, :3].transpose(1, 2)
        return end_points
