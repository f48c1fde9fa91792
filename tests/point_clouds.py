"""Point-cloud backbones with the contracts of two detectors, small, and of the kind that can only be run for real."""

from __future__ import annotations

import torch
from torch import nn

# Dimension letters: B batch, N points given, M points taken, K columns of a point, D channels, G neighbours.


def farthest_points(xyz_BN3: torch.Tensor, count: int) -> torch.Tensor:
    """Indices `[B, M]` of points far from each other; each choice depends on the values of those before."""
    rows = []
    for xyz_N3 in xyz_BN3:
        nearest_N = torch.full((len(xyz_N3),), float("inf"), device=xyz_N3.device)
        chosen = [0]
        for _ in range(count - 1):
            nearest_N = torch.minimum(nearest_N, (xyz_N3 - xyz_N3[chosen[-1]]).square().sum(-1))
            chosen.append(int(nearest_N.argmax()))
        rows.append(torch.tensor(chosen, device=xyz_N3.device))
    return torch.stack(rows)


def farthest_points_together(xyz_BN3: torch.Tensor, count: int) -> torch.Tensor:
    """The same for all clouds at once, by operations on tensors alone: of the kind that exporters can follow."""
    nearest_BN = torch.full_like(xyz_BN3[..., 0], float("inf"))
    chosen = [torch.zeros_like(xyz_BN3[:, 0, 0], dtype=torch.int64)]
    for _ in range(count - 1):
        last_B13 = rows_of(xyz_BN3, chosen[-1][:, None])
        nearest_BN = torch.minimum(nearest_BN, (xyz_BN3 - last_B13).square().sum(-1))
        chosen.append(nearest_BN.argmax(1))
    return torch.stack(chosen, dim=1)


def squares(left_BM3: torch.Tensor, right_BN3: torch.Tensor) -> torch.Tensor:
    """Squared distances `[B, M, N]`; ONNX has no word for `torch.cdist`."""
    return (left_BM3.unsqueeze(2) - right_BN3.unsqueeze(1)).square().sum(-1)


def rows_of(values_BNK: torch.Tensor, index_BM: torch.Tensor) -> torch.Tensor:
    """The rows `[B, M, K]` that indices take."""
    return values_BNK.gather(1, index_BM.long().unsqueeze(-1).expand(-1, -1, values_BNK.shape[-1]))


class SetAbstraction(nn.Module):
    """Takes points far from each other and gives each the largest features of its neighbours."""

    def __init__(self, count: int, source: int, target: int, neighbours: int = 4, *, together: bool = False) -> None:
        super().__init__()
        self.count, self.neighbours = count, neighbours
        self.choose = farthest_points_together if together else farthest_points
        self.far = squares if together else torch.cdist
        self.mlp = nn.Sequential(nn.Conv2d(source + 3, target, 1), nn.ReLU())

    def forward(
        self, xyz_BN3: torch.Tensor, features_BDN: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Points `[B, M, 3]`, features `[B, D, M]`, indices `[B, M]`."""
        index_BM = self.choose(xyz_BN3, self.count)
        points_BM3 = rows_of(xyz_BN3, index_BM)
        near_BMG = self.far(points_BM3.float(), xyz_BN3.float()).topk(self.neighbours, largest=False).indices
        both_BNK = torch.cat([xyz_BN3, features_BDN.transpose(1, 2)], dim=-1)
        flat_BMG = near_BMG.flatten(1)
        grouped_BMGK = rows_of(both_BNK, flat_BMG).unflatten(1, near_BMG.shape[1:])
        features_BDM = self.mlp(grouped_BMGK.permute(0, 3, 1, 2)).amax(-1)
        return points_BM3, features_BDM, index_BM


class PointNet(nn.Module):
    """The old backbone: a dict of 13 tensors, made anew or filled in; the detector reads the three `fp2_*`.

    `gather(cloud[..., :3], 1, fp2_inds) == fp2_xyz`, since the choice of far points is nested.
    """

    def __init__(self, columns: int = 1) -> None:
        super().__init__()
        self.sa1 = SetAbstraction(32, columns, 16)
        self.sa2 = SetAbstraction(16, 16, 24)
        self.sa3 = SetAbstraction(12, 24, 24)
        self.sa4 = SetAbstraction(8, 24, 24)
        self.fp1 = nn.Conv1d(24, 24, 1)
        self.fp2 = nn.Conv1d(24, 288, 1)

    def forward(
        self, cloud: torch.Tensor, end_points: dict[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """`cloud [B, N, 3 + C]`."""
        if not end_points:
            end_points = {}
        xyz, features = cloud[..., :3].contiguous(), cloud[..., 3:].transpose(1, 2)
        for i, stage in enumerate((self.sa1, self.sa2, self.sa3, self.sa4), 1):
            xyz, features, index = stage(xyz, features)
            if i <= 2:
                end_points[f"sa{i}_inds"] = index.int()
            end_points[f"sa{i}_xyz"], end_points[f"sa{i}_features"] = xyz, features
        deep = self.fp1(end_points["sa4_features"]).amax(-1, keepdim=True)
        end_points["fp2_features"] = self.fp2(
            end_points["sa2_features"] + deep + end_points["sa3_features"].mean(-1, keepdim=True)
        )
        end_points["fp2_xyz"] = end_points["sa2_xyz"]
        end_points["fp2_inds"] = end_points["sa1_inds"][:, : end_points["fp2_xyz"].shape[1]]
        return end_points


class PointTransformer(nn.Module):
    """The new backbone: lists from coarse to fine under other names, 256 channels, int64 indices into the cloud.

    Args:
        indices: Whether it tells which points it took.
        count: How many points the finest level has.
        together: Whether it does all clouds at once, by operations that exporters can follow.
    """

    def __init__(self, columns: int = 1, *, indices: bool = True, count: int = 16, together: bool = False) -> None:
        super().__init__()
        self.indices = indices
        self.fine = SetAbstraction(count, columns, 32, together=together)
        self.coarse = SetAbstraction(8, 32, 256, together=together)
        self.up = nn.Linear(32, 256)

    def forward(self, points: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        """`points [B, N, 3 + C]`."""
        fine_xyz, fine_features, fine_index = self.fine(points[..., :3].contiguous(), points[..., 3:].transpose(1, 2))
        coarse_xyz, coarse_features, within = self.coarse(fine_xyz, fine_features)
        mixed = self.up(fine_features.transpose(1, 2)).transpose(1, 2) + coarse_features.mean(-1, keepdim=True)
        made = {"fp_xyz": [coarse_xyz, fine_xyz], "fp_features": [coarse_features, mixed]}
        if self.indices:
            made["fp_indices"] = [fine_index.gather(1, within), fine_index]
        return made


READ = ("fp2_features", "fp2_xyz", "fp2_inds")
"""What the detector reads."""


def cloud(batch: int = 2, count: int = 64, columns: int = 1) -> torch.Tensor:
    """A cloud whose points are all different."""
    return torch.randn(batch, count, 3 + columns, generator=torch.Generator().manual_seed(batch * 1000 + count))


def ball_query(radius: float, count: int, xyz_BN3: torch.Tensor, points_BM3: torch.Tensor) -> torch.Tensor:
    """For each point the first neighbours `[B, M, G]` within a radius, the first of them again if too few."""
    index_BMN = torch.arange(xyz_BN3.shape[1]).expand(*points_BM3.shape[:2], -1).clone()
    index_BMN[squares(points_BM3, xyz_BN3) > radius**2] = xyz_BN3.shape[1]
    near_BMG = index_BMN.sort(-1).values[..., :count]
    return torch.where(near_BMG == xyz_BN3.shape[1], near_BMG[..., :1], near_BMG)


class ChannelFirst(nn.Module):
    """PointNet++ as most PyTorch code has it: clouds `[B, 3 + C, N]`, and from it coordinates `[B, 3, M]`, no indices.

    Args:
        columns: Features of a point besides its coordinates.
        count: How many points are taken.
    """

    def __init__(self, columns: int = 1, count: int = 16) -> None:
        super().__init__()
        self.count = count
        self.mlp = nn.Sequential(nn.Conv2d(3 + columns, 32, 1), nn.ReLU(), nn.Conv2d(32, 48, 1))

    def forward(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`points [B, 3 + C, N]`."""
        rows_BNK = points.transpose(1, 2)
        xyz_BN3 = rows_BNK[..., :3].contiguous()
        xyz_BM3 = rows_of(xyz_BN3, farthest_points(xyz_BN3, self.count))
        near_BMG = ball_query(1.0, 8, xyz_BN3, xyz_BM3)
        grouped_BMGK = rows_of(rows_BNK, near_BMG.flatten(1)).unflatten(1, near_BMG.shape[1:])
        local_BMGK = torch.cat([grouped_BMGK[..., :3] - xyz_BM3.unsqueeze(2), grouped_BMGK[..., 3:]], -1)
        return xyz_BM3.transpose(1, 2), self.mlp(local_BMGK.permute(0, 3, 2, 1)).amax(2)


class ChannelFirstIndices(ChannelFirst):
    """The same with the indices of the points that it takes, in a dict: `gather(points[:, :3], 2, inds) == xyz`."""

    def __init__(self, columns: int = 1, count: int = 16, *, dtype: torch.dtype = torch.int32) -> None:
        super().__init__(columns, count)
        self.dtype = dtype

    def forward(self, points: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """`points [B, 3 + C, N]`."""
        xyz_B3M, features_BDM = super().forward(points)
        taken_BM = farthest_points(points[:, :3].transpose(1, 2), self.count).to(self.dtype)
        return {"xyz": xyz_B3M, "features": features_BDM, "inds": taken_BM}
