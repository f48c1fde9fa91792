"""Points are thinned once per set, by the same choice for features, coordinates and indices."""

from __future__ import annotations

import pytest
import torch
from point_clouds import READ, ChannelFirst, PointTransformer, cloud, farthest_points, rows_of
from point_detector import PointDetector

import autoadapt as aa
from autoadapt.adapting.layers import choose_points, take_points
from autoadapt.adapting.planning import plan
from autoadapt.contracts.signature import Signature
from autoadapt.errors import SwapError
from autoadapt.swapping import swap

SCENE = ({"point_clouds": cloud()},)


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


def test_fewer_points_than_wanted_are_refused_with_the_option_to_repeat():
    with pytest.raises(SwapError, match='there are 12 points and 16 are wanted; thin="repeat"'):
        swap(PointDetector(), "backbone_net", PointTransformer(count=12), inputs=SCENE)
    detector = swap(PointDetector(), "backbone_net", PointTransformer(count=12), inputs=SCENE, thin="repeat")
    points = cloud(3, 80)
    made = detector.backbone_net(points, {})
    assert made["fp2_xyz"].shape == (3, 16, 3)
    assert torch.equal(rows_of(points[..., :3], made["fp2_inds"]), made["fp2_xyz"])
    assert torch.equal(made["fp2_xyz"][:, :4], made["fp2_xyz"][:, 12:])


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


def test_a_plan_with_thinning_survives_json_and_copies():
    import copy

    detector = swap(PointDetector(), "backbone_net", PointTransformer(count=24), inputs=SCENE)
    net = detector.backbone_net
    assert type(net.plan).model_validate_json(net.plan.model_dump_json()) == net.plan
    points = cloud(2, 70)
    assert torch.equal(copy.deepcopy(net)(points, {})["fp2_inds"], net(points, {})["fp2_inds"])
    assert "24 points, farthest 16" in str(net.plan)


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


def test_each_leaf_is_refused_for_a_reason_of_its_own():
    with pytest.raises(SwapError) as refused:
        swap(PointDetector(), "backbone_net", ChannelFirst(count=12), inputs=SCENE, indices="recover")
    whys = {fault.where: fault.why for fault in refused.value.mismatches}
    told = 'there are 12 points and 16 are wanted; thin="repeat" takes some of them again'
    assert whys["fp2_features"] == whys["fp2_xyz"] == told


def test_coordinates_are_recognised_in_either_layout():
    for model, x, dims in [
        (ChannelFirst(), cloud().transpose(1, 2), "f32[B, 3, 16] coordinate"),
        (PointTransformer(), cloud(), "f32[B, 16, 3] coordinate"),
    ]:
        signature = aa.capture(model, x)
        assert dims in map(str, signature.outputs.leaves)
