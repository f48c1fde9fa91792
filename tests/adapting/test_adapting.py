"""`adapt` from end to end: real models at every size, the contracts of detectors, points and plain texts."""

import json

import pytest
import segmentation_models_pytorch
import timm
import torch
import torchvision
from plan_kinds import texts
from point_clouds import READ, PointNet, PointTransformer, cloud, rows_of
from small_models import Mixed, Plain, Pyramid, image
from torch import nn

import autoadapt as aa
from autoadapt.contracts.trees import flatten

SIZES = ((64, 96), (61, 75), (97, 131))


@pytest.fixture(scope="module")
def levels():
    """The signature of ResNet-26's features: a list of five maps, as those of ResNet-101."""
    return aa.capture(timm.create_model("resnet26", features_only=True), torch.randn(2, 3, 64, 96))


def shapes(signature, batch, height, width):
    return [spec.shape({"B": batch, "H": height, "W": width}) for spec in signature.outputs.leaves]


PYRAMIDS = ["resnet18", "mobilenetv2_050", "convnext_atto", "efficientnet_lite0", "hrnet_w18_small"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", PYRAMIDS)
def test_a_pyramid_of_timm_gets_container_order_and_shapes_of_another_at_every_size(name, levels):
    new = timm.create_model(name, features_only=True)
    net = aa.adapt(new, like=levels, inputs=torch.randn(2, 3, 64, 96)).eval()
    for height, width in SIZES:
        for batch in (1, 3):
            with torch.no_grad():
                outputs = net(torch.randn(batch, 3, height, width))
            assert type(outputs) is list
            assert [tuple(one.shape) for one in outputs] == shapes(levels, batch, height, width)


FIXED = ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_a_model_of_one_size_serves_every_size(name, levels):
    new = timm.create_model(name, features_only=True)
    net = aa.adapt(new, like=levels, inputs=torch.randn(1, 3, 64, 96)).eval()
    for batch, height, width in ((1, 64, 96), (2, 61, 75)):
        with torch.no_grad():
            outputs = net(torch.randn(batch, 3, height, width))
        assert [tuple(one.shape) for one in outputs] == shapes(levels, batch, height, width)


def test_levels_are_served_by_the_source_of_their_stride(levels):
    net = aa.adapt(timm.create_model("resnet18", features_only=True), like=levels, inputs=torch.randn(2, 3, 64, 96))
    assert [route.source for route in net.plan.routes] == ["0", "1", "2", "3", "4"]
    assert [len(route.steps) for route in net.plan.routes] == [0, 1, 1, 1, 1]
    assert net.plan.parameters == sum(p.numel() for p in aa.param_groups(net)["adapters"])


ITSELF = {
    "resnet18": lambda: (timm.create_model("resnet18"), torch.randn(2, 3, 64, 64)),
    "resnet26 features": lambda: (timm.create_model("resnet26", features_only=True), torch.randn(2, 3, 64, 64)),
    "mobilenetv2": lambda: (timm.create_model("mobilenetv2_050"), torch.randn(2, 3, 64, 64)),
    "regnet features": lambda: (timm.create_model("regnetx_002", features_only=True), torch.randn(1, 3, 97, 131)),
    "convnext": lambda: (timm.create_model("convnext_atto"), torch.randn(2, 3, 64, 64)),
    "vit": lambda: (timm.create_model("vit_tiny_patch16_224"), torch.randn(1, 3, 224, 224)),
    "swin features": lambda: (
        timm.create_model("swin_tiny_patch4_window7_224", features_only=True),
        torch.randn(1, 3, 224, 224),
    ),
    "torchvision fpn": lambda: (
        torchvision.models.detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None),
        torch.randn(1, 3, 64, 64),
    ),
    "torchvision squeezenet": lambda: (torchvision.models.squeezenet1_1(), torch.randn(2, 3, 64, 64)),
    "transformer layer": lambda: (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(2, 5, 16)),
    "point cloud": lambda: (PointNet(), (cloud(), {})),
    "mixed leaves": lambda: (Mixed(), image()),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ITSELF)
def test_a_module_adapted_to_itself_is_bit_equal_without_any_layer(name):
    model, inputs = ITSELF[name]()
    model.eval()
    net = aa.adapt(model, like=model, inputs=inputs)
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    with torch.no_grad():
        expected, found = model(*given), net(*given)
    assert type(found) is type(expected)
    assert flatten(found)[0] == flatten(expected)[0]
    assert all(map(torch.equal, flatten(found)[1], flatten(expected)[1]))
    assert list(net.adapters.parameters()) == []
    assert all(route.steps == () for route in net.plan.routes)
    assert "none: the outputs are as they should be" in str(net.plan)


def test_ten_models_are_adapted_to_themselves():
    assert len(ITSELF) >= 10


@pytest.mark.slow
def test_densenet_like_resnet_shows_rounding_down_against_rounding_up_and_is_exact(levels):
    net = aa.adapt(timm.create_model("densenet121", features_only=True), like=levels, inputs=torch.randn(1, 3, 97, 131))
    shown = " ".join(str(net.plan).split())  # remarks go over lines
    assert "its cells are read at pixels 0 + 16 i, made at pixels 6 + 16 i" in shown
    fine = net.plan.routes[3]
    assert str(fine.specs[0].dims[2]) != "ceil(H/16)"
    assert "floor" in str(fine.specs[0].dims[2])
    with torch.no_grad():
        outputs = net.eval()(torch.randn(1, 3, 97, 131))
    assert [tuple(one.shape[2:]) for one in outputs] == [(49, 66), (25, 33), (13, 17), (7, 9), (4, 5)]


@pytest.mark.slow
def test_a_dict_of_points_is_served_with_features_projected_and_the_rest_bit_for_bit():
    old, new = PointNet(), PointTransformer().eval()
    net = aa.adapt(new, like=old, inputs=(cloud(), {}), outputs=READ).eval()
    points = cloud(3, 80)
    made, own = net(points, {}), new(points)
    assert list(made) == list(READ)
    assert made["fp2_features"].shape == (3, 288, 16)
    assert torch.equal(made["fp2_xyz"], own["fp_xyz"][-1])
    assert torch.equal(made["fp2_inds"].long(), own["fp_indices"][-1])
    assert made["fp2_inds"].dtype == torch.int32
    assert torch.equal(rows_of(points[..., :3], made["fp2_inds"]), made["fp2_xyz"])
    assert net.verify((cloud(), {})).passed
    layers = {name: tuple(p.shape) for name, p in net.adapters.named_parameters()}
    assert layers == {"fp2_features.project.weight": (288, 256, 1), "fp2_features.project.bias": (288,)}


def test_a_dict_that_is_filled_in_stays_the_callers_own():
    net = aa.adapt(PointTransformer(), like=PointNet(), inputs=(cloud(), {}), outputs=READ)
    own = {"seed": 1}
    assert net(cloud(), own) is own
    assert list(own) == ["seed", *READ]


def test_an_empty_dict_is_left_alone_where_the_old_module_made_a_new_one():
    old = PointNet()
    net = aa.adapt(PointTransformer(), like=old, inputs=(cloud(), {}), outputs=READ)
    for module in (old, net):
        own = {}
        module(cloud(), own)
        assert own == {}
    assert list(net(cloud())) == list(READ)


def test_a_backbone_without_indices_is_refused_by_the_name_of_the_leaf():
    with pytest.raises(aa.MatchError) as caught:
        aa.adapt(PointTransformer(indices=False), like=PointNet(), inputs=(cloud(), {}), outputs=READ)
    said = str(caught.value)
    assert said.startswith("nothing in PointTransformer can serve `fp2_inds`")
    assert "expected  i32[B, 16], index into the points of `cloud`" in said
    assert "no such integers" in said
    assert "a layer that makes integers up has the right shape and is wrong" in said
    assert 'adapt(..., indices="recover")' in said
    assert "outputs=['fp2_features', 'fp2_xyz']" in said


@pytest.mark.slow
def test_indices_are_recovered_from_coordinates_when_the_caller_says_so():
    new = PointTransformer(indices=False)
    net = aa.adapt(new, like=PointNet(), inputs=(cloud(), {}), outputs=READ, indices="recover").eval()
    points = cloud(3, 80)
    made = net(points, {})
    assert made["fp2_inds"].dtype == torch.int32
    assert torch.equal(rows_of(points[..., :3], made["fp2_inds"]), made["fp2_xyz"])
    assert net.verify((cloud(), {})).passed


def test_the_contract_may_be_texts_in_containers_a_signature_or_a_saved_file(tmp_path):
    contract = {"p3": "f32[B, 7, ceil(H/8), ceil(W/8)]"}
    signature = texts(contract)
    signature.save(tmp_path / "old.json")
    plans = []
    for like in (contract, signature, tmp_path / "old.json", str(tmp_path / "old.json")):
        net = aa.adapt(Pyramid(4, 6, 9), like=like, inputs=image())
        assert {name: tuple(one.shape) for name, one in net(image(1, 50, 61)).items()} == {"p3": (1, 7, 7, 8)}
        plans.append([route.steps for route in net.plan.routes])
    assert plans.count(plans[0]) == 4


def test_equal_inputs_give_equal_plans():
    made = [aa.adapt(Plain(), like=Mixed(), inputs=image()).plan for _ in range(2)]
    assert made[0] == made[1]
    assert aa.Plan.model_validate(json.loads(made[0].model_dump_json())) == made[0]


def test_a_projection_can_be_asked_for_everywhere():
    net = aa.adapt(Pyramid(4, 8), like=Pyramid(4, 8), inputs=image(), project="always")
    assert sorted(dict(net.adapters.named_parameters())) == [
        "0.project.bias",
        "0.project.weight",
        "1.project.bias",
        "1.project.weight",
    ]


def test_images_of_other_channels_are_read_by_the_first_convolution():
    x = torch.randn(2, 1, 32, 32)
    net = aa.adapt(Pyramid(4, 8), like=nn.Conv2d(1, 6, 3, 4, 1), inputs=x)
    assert net(x).shape == (2, 6, 8, 8)
    assert net.verify(x).passed


def test_only_the_outputs_that_are_asked_for_are_served():
    net = aa.adapt(Plain(), like=Mixed(), inputs=image(), outputs=["1.p3"])
    (maps,) = net(image())
    assert list(maps) == ["p3"]


def test_adapting_leaves_both_modules_and_the_random_generator_as_they_were():
    old, new = Mixed().train(), Plain().eval()
    states = [{name: tensor.clone() for name, tensor in one.state_dict().items()} for one in (old, new)]
    hooks = [len(module._forward_hooks) for one in (old, new) for module in one.modules()]
    aa.adapt(new, like=old, inputs=image())
    assert old.training
    assert not new.training
    for one, state in zip((old, new), states, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())
    assert [len(module._forward_hooks) for one in (old, new) for module in one.modules()] == hooks


@pytest.mark.slow
def test_inputs_may_be_left_out_where_a_model_tells_its_size():
    net = aa.adapt(
        timm.create_model("resnet18", features_only=True), like=timm.create_model("resnet26", features_only=True)
    )
    assert net.signature.sizes() == {"B": 2, "H": 224, "W": 224}


@pytest.mark.slow
def test_a_level_without_channels_stays_without_channels():
    old = segmentation_models_pytorch.encoders.get_encoder("mit_b0", weights=None).eval()  # its second is `[B, 0, ..]`
    net = aa.adapt(timm.create_model("resnet18"), like=old, inputs=torch.randn(1, 3, 64, 96)).eval()
    assert [step.op for step in net.plan.routes[1].steps] == ["resize", "drop"]
    with torch.no_grad():
        for height, width in ((96, 128), (64, 96), (32, 160)):
            x = torch.randn(2, 3, height, width)
            assert [level.shape for level in net(x)] == [level.shape for level in old(x)]


@pytest.mark.slow
def test_a_stage_that_is_cut_does_not_stop_gradient_checkpointing():
    old = timm.create_model("resnet26", features_only=True, out_indices=(2, 3))
    net = aa.adapt(timm.create_model("resnet18"), like=old, inputs=torch.randn(1, 3, 224, 224))
    assert "layer4" in net.plan.cut
    assert {check.name: check.outcome for check in net.verify().checks}["checkpointing"] == "passed"
