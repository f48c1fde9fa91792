"""Points are thinned once per set, by the same choice for features, coordinates and indices."""

from __future__ import annotations

import pytest
import torch
from point_clouds import (
    READ,
    ChannelFirst,
    ChannelFirstIndices,
    PointTransformer,
    cloud,
    farthest_points,
    rows_of,
)
from point_detector import PointDetector
from torch import nn

import autoadapt as aa
from autoadapt.adapting.layers import choose_points, take_points
from autoadapt.adapting.planning import plan
from autoadapt.contracts.signature import Gathering, Signature
from autoadapt.errors import SwapError
from autoadapt.swapping import swap

SCENE = ({"point_clouds": cloud()},)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["farthest", "first", "even", "random"])
def test_more_points_than_wanted_are_thinned_by_one_choice(how):
    new = PointTransformer(count=24)
    detector = swap(PointDetector(), "backbone_net", new, inputs=SCENE, thin=how)
    points = cloud(3, 80)
    made, own = detector.backbone_net(points, {}), new(points)
    assert torch.equal(rows_of(points[..., :3], made["fp2_inds"]), made["fp2_xyz"])
    taken = [own["fp_indices"][-1][0].tolist().index(i) for i in made["fp2_inds"][0].tolist()]
    assert torch.equal(made["fp2_xyz"][0], own["fp_xyz"][-1][0][taken])
    before = detector.backbone_net.adapters.fp2_features.project(own["fp_features"][-1])
    assert torch.allclose(made["fp2_features"][0], before[0][:, taken], atol=1e-5)
    assert len(set(taken)) == 16
    assert detector.backbone_net.code.count("choose_points(") == 1


def test_farthest_points_are_those_of_the_textbook():
    xyz = cloud(3, 50)[..., :3]
    assert torch.equal(choose_points(xyz, 20, "farthest"), farthest_points(xyz, 20))


@pytest.mark.parametrize(
    ("how", "expected"), [("first", [0, 1, 2]), ("even", [0, 2, 4]), ("repeat", [0, 1, 2]), ("random", None)]
)
def test_choices_without_coordinates_are_the_same_for_every_sample_and_run(how, expected):
    chosen = choose_points(torch.rand(2, 7, 3), 3, how)
    assert torch.equal(chosen, choose_points(torch.rand(2, 7, 3), 3, how))
    assert expected is None or chosen.tolist() == [expected, expected]
    assert torch.equal(choose_points(torch.rand(2, 3, 7), 3, how, 2), chosen)


def test_entries_are_taken_on_any_axis():
    values, choice = torch.rand(2, 5, 4, 3), torch.tensor([[2, 0], [1, 1]])
    taken = take_points(values, choice, 2)
    assert torch.equal(taken[0], values[0][:, [2, 0]])
    assert torch.equal(taken[1], values[1][:, [1, 1]])


@pytest.mark.slow
def test_fewer_points_than_wanted_are_refused_with_the_option_to_repeat():
    with pytest.raises(SwapError, match='there are 12 points or tokens and 16 are wanted; thin="repeat"'):
        swap(PointDetector(), "backbone_net", PointTransformer(count=12), inputs=SCENE)
    detector = swap(PointDetector(), "backbone_net", PointTransformer(count=12), inputs=SCENE, thin="repeat")
    points = cloud(3, 80)
    made = detector.backbone_net(points, {})
    assert made["fp2_xyz"].shape == (3, 16, 3)
    assert torch.equal(rows_of(points[..., :3], made["fp2_inds"]), made["fp2_xyz"])
    assert torch.equal(made["fp2_xyz"][:, :4], made["fp2_xyz"][:, 12:])


@pytest.mark.slow
def test_thinned_indices_can_be_recovered_from_thinned_coordinates():
    new = PointTransformer(count=24, indices=False)
    detector = swap(PointDetector(), "backbone_net", new, inputs=SCENE, indices="recover")
    points = cloud(3, 80)
    made = detector.backbone_net(points, {})
    assert torch.equal(rows_of(points[..., :3], made["fp2_inds"]), made["fp2_xyz"])


def test_points_are_never_mixed_up_with_channels_of_the_same_number():
    cloud_in = {"cloud": "f32[B, N, 4]"}
    old = Signature.parse({"xyz": "f32[B, 16, 3] coordinate", "deep": "f32[B, 32, 16]"}, inputs=cloud_in)
    new = Signature.parse({"points": "f32[B, 16, 3] coordinate", "values": "f32[B, 16, 16]"}, inputs=cloud_in)
    steps = [step.op for route in plan(new, old).routes if route.target == "deep" for step in route.steps]
    assert steps == ["project"]


@pytest.mark.slow
def test_a_plan_with_thinning_survives_json_and_copies():
    import copy

    detector = swap(PointDetector(), "backbone_net", PointTransformer(count=24), inputs=SCENE)
    net = detector.backbone_net
    assert type(net.plan).model_validate_json(net.plan.model_dump_json()) == net.plan
    points = cloud(2, 70)
    assert torch.equal(copy.deepcopy(net)(points, {})["fp2_inds"], net(points, {})["fp2_inds"])
    assert "24 points, farthest 16" in str(net.plan)


@pytest.mark.slow
@pytest.mark.parametrize("count", [16, 24])
def test_coordinates_that_stand_channel_first_are_turned_and_indices_found_in_them(count):
    new = ChannelFirst(count=count).eval()
    detector = swap(PointDetector(), "backbone_net", new, inputs=SCENE, indices="recover")
    net, points = detector.backbone_net, cloud(3, 80)
    made = net(points, {})
    xyz_B3M, features_BDM = new(points.transpose(1, 2))
    assert torch.equal(rows_of(points[..., :3], made["fp2_inds"]), made["fp2_xyz"])
    if count == 16:
        assert torch.equal(made["fp2_xyz"], xyz_B3M.transpose(1, 2))
        assert torch.allclose(made["fp2_features"], net.adapters.fp2_features.project(features_BDM), atol=1e-6)
    kept = {tuple(row.tolist()) for row in xyz_B3M[0].T}
    assert {tuple(row.tolist()) for row in made["fp2_xyz"][0]} <= kept
    assert sorted(made) == sorted(READ)
    assert "b c n" in str(net.plan) or "permute" in net.code


@pytest.mark.slow
def test_each_leaf_is_refused_for_a_reason_of_its_own():
    with pytest.raises(SwapError) as refused:
        swap(PointDetector(), "backbone_net", ChannelFirst(count=12), inputs=SCENE, indices="recover")
    whys = {fault.where: fault.why for fault in refused.value.mismatches}
    told = 'there are 12 points or tokens and 16 are wanted; thin="repeat" takes some of them again'
    assert whys["fp2_features"] == whys["fp2_xyz"] == told


def test_coordinates_are_recognised_in_either_layout():
    for model, x, dims in [
        (ChannelFirst(), cloud().transpose(1, 2), "f32[B, 3, 16] coordinate"),
        (PointTransformer(), cloud(), "f32[B, 16, 3] coordinate"),
    ]:
        signature = aa.capture(model, x)
        assert dims in map(str, signature.outputs.leaves)


def columns_of(cloud_BKN, index_BM):
    return rows_of(cloud_BKN[:, :3].transpose(1, 2), index_BM).transpose(1, 2)


def old_with_columns():
    return ChannelFirstIndices().eval()


class Coordinates(nn.Module):
    """Points alone, always in rows."""

    def __init__(self, rows_in):
        super().__init__()
        self.rows_in = rows_in

    def forward(self, points):
        rows = points if self.rows_in else points.transpose(1, 2)
        if rows.shape[-1] != 4:
            raise ValueError("four columns")
        return rows_of(rows[..., :3], farthest_points(rows[..., :3], 5))


def test_indices_into_a_cloud_of_columns_are_an_invariant():
    signature = aa.capture(old_with_columns(), cloud().transpose(1, 2))
    assert list(map(str, signature.invariants)) == ["gather(inputs.points[:, :3], 2, inds) == xyz"]
    assert "always" in str(signature)
    assert signature.outputs["inds"].role == "index"
    assert signature.outputs["xyz"].role == "coordinate"


@pytest.mark.parametrize(("rows_in", "rows_out"), [(False, False), (True, False), (False, True), (True, True)])
def test_points_may_stand_in_rows_or_columns_on_either_side_of_an_invariant(rows_in, rows_out):
    class Taking(nn.Module):
        def forward(self, points):
            rows = points if rows_in else points.transpose(1, 2)
            if rows.shape[-1] != 4:
                raise ValueError("four columns")
            taken = farthest_points(rows[..., :3], 5)
            xyz = rows_of(rows[..., :3], taken)
            return xyz if rows_out else xyz.transpose(1, 2), taken

    x = cloud() if rows_in else cloud().transpose(1, 2)
    (rule,) = aa.capture(Taking(), x).invariants
    given = "inputs.points[..., :3], 1" if rows_in else "inputs.points[:, :3], 2"
    assert str(rule) == f"gather({given}, 1) == 0{'' if rows_in == rows_out else '.mT'}"
    net = aa.adapt(Coordinates(rows_in), like=Taking(), inputs=x, indices="recover")
    made, wanted = net(x), Taking()(x)
    assert all(map(torch.equal, made, wanted))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_channel_first_module_keeps_its_indices_when_another_one_takes_its_place(dtype):
    old, new = old_with_columns(), ChannelFirstIndices(count=16, dtype=dtype).eval()
    net = aa.adapt(new, like=old, inputs=cloud().transpose(1, 2))
    points = cloud(3, 80).transpose(1, 2)
    made = net(points)
    assert made["inds"].dtype is torch.int32
    assert torch.equal(columns_of(points, made["inds"]), made["xyz"])
    assert torch.equal(made["xyz"], new(points)["xyz"])
    assert aa.verify(net, net.signature).passed


@pytest.mark.sampled(1)
@pytest.mark.parametrize("count", [24, 16])
def test_rows_serve_an_old_module_of_columns_with_its_indices(count):
    old, new = old_with_columns(), PointTransformer(count=count).eval()
    net = aa.adapt(new, like=old, inputs=cloud().transpose(1, 2))
    points = cloud(3, 80).transpose(1, 2)
    made = net(points)
    assert made["inds"].dtype is torch.int32
    assert made["xyz"].shape == (3, 3, 16)
    assert torch.equal(columns_of(points, made["inds"]), made["xyz"])


@pytest.mark.slow
def test_columns_with_indices_serve_an_old_module_of_rows():
    new = ChannelFirstIndices(dtype=torch.int64).eval()
    detector = swap(PointDetector(), "backbone_net", new, inputs=SCENE)
    points = cloud(3, 80)
    made = detector.backbone_net(points, {})
    assert made["fp2_inds"].dtype is torch.int32
    assert torch.equal(rows_of(points[..., :3], made["fp2_inds"]), made["fp2_xyz"])
    assert torch.equal(made["fp2_inds"].long(), new(points.transpose(1, 2))["inds"])


@pytest.mark.slow
def test_indices_are_recovered_from_columns():
    old, new = old_with_columns(), ChannelFirst().eval()
    with pytest.raises(aa.MatchError, match=r'indices="recover"'):
        aa.adapt(new, like=old, inputs=cloud().transpose(1, 2))
    net = aa.adapt(new, like=old, inputs=cloud().transpose(1, 2), indices="recover")
    points = cloud(3, 80).transpose(1, 2)
    made = net(points)
    assert torch.equal(columns_of(points, made["inds"]), made["xyz"])
    assert torch.equal(made["inds"], old(points)["inds"])
    assert aa.verify(net, net.signature).passed


@pytest.mark.slow
def test_verification_sees_indices_into_columns_that_take_other_points():
    net = aa.adapt(ChannelFirstIndices(), like=old_with_columns(), inputs=cloud().transpose(1, 2))
    net.backbone.register_forward_hook(lambda _m, _a, made: {**made, "inds": made["inds"].flip(1)})
    report = aa.verify(net, net.signature)
    assert not report.passed
    assert "gather(inputs.points[:, :3], 2, inds) == xyz" in str(report)


def test_invariants_of_files_without_a_layout_are_of_rows():
    told = {"values": "inputs.x", "stop": 3, "index": "i", "result": "p"}
    assert str(Gathering.model_validate(told)) == "gather(inputs.x[..., :3], 1, i) == p"


class Sets(nn.Module):
    """The first points of a cloud, as sets of several sizes, each with a feature."""

    def __init__(self, *counts):
        super().__init__()
        self.counts = counts
        self.scale = nn.Conv1d(3, 6, 1)

    def forward(self, points):
        if points.shape[1] < 32:
            raise ValueError("at least 32 points")
        sets = {f"xyz{i}": points[:, :count].contiguous() for i, count in enumerate(self.counts)}
        return sets | {"features": self.scale(sets["xyz0"].transpose(1, 2))}


class Sum(nn.Module):
    """Reads one set and hands all of them on."""

    def __init__(self):
        super().__init__()
        self.sets = Sets(16, 8)

    def forward(self, points):
        made = self.sets(points)
        return {"sum": made["xyz0"].sum(1) + made["features"].sum(), "made": made}


@pytest.mark.parametrize("counts", [(16, 24), (16, 8)])
def test_a_set_of_points_that_nobody_reads_is_not_filled_with_another_that_fits(counts):
    x = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    done = swap(Sum(), "sets", Sets(*counts), inputs=x, dry_run=True)
    assert done.refused == "", done
    part = done.parts[0]
    assert (part.read, part.free, part.left_out) == (("xyz0", "features"), (), ("xyz1",))
