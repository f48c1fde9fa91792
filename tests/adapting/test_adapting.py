"""`adapt` from end to end: real models at every size, the contracts of detectors, and what it refuses."""

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


@pytest.mark.sampled(2)
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


@pytest.mark.sampled(2)
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


def test_inputs_may_be_left_out_where_a_model_tells_its_size():
    net = aa.adapt(
        timm.create_model("resnet18", features_only=True), like=timm.create_model("resnet26", features_only=True)
    )
    assert net.signature.sizes() == {"B": 2, "H": 224, "W": 224}


# What is refused. Each message is tested by its text: the place, what was expected, what was found, what to do.


class Raising(nn.Module):
    """Raises whatever it is given."""

    def __init__(self):
        super().__init__()
        self.body = Pyramid(4)

    def forward(self, x):
        raise RuntimeError("needs a licence file\nand more")


class Growing(nn.Module):
    """Returns another leaf at large sizes."""

    def __init__(self):
        super().__init__()
        self.body = Pyramid(4, 8)

    def forward(self, x):
        fine, coarse = self.body(x)
        return {"fine": fine, "coarse": coarse} if x.shape[2] > 60 else {"fine": fine}


class Counting(nn.Module):
    """Returns as many rows as there are positive values: a size that no input size explains."""

    def __init__(self):
        super().__init__()
        self.body = Pyramid(4)

    def forward(self, x):
        return x.flatten()[x.flatten() > 0][:, None]


class Digits(nn.Module):
    """An axis as long as the sum of the digits of the height."""

    def forward(self, x):
        return x.new_zeros(len(x), sum(map(int, str(x.shape[2]))) + 1)


class Coordinates(nn.Module):
    """Returns points of its input."""

    def forward(self, points):
        return {"xyz": points[:, ::2, :3].contiguous()}


class Boxed(nn.Module):
    """Returns an object of a class of its own."""

    def forward(self, x):
        return Box(x)


class Box:
    """Holds a tensor where nobody sees it."""

    def __init__(self, tensor):
        self.tensor = tensor


def stages(*strides):
    return [f"f32[B, 8, ceil(H/{stride}), ceil(W/{stride})]" for stride in strides]


REFUSED = {
    "a new module that raises at the given input": (
        lambda: aa.adapt(Raising(), like=Pyramid(4), inputs=image()),
        aa.CaptureError,
        ["Raising raises at the given input", "a forward pass", "RuntimeError: needs a licence file", "call the model"],
    ),
    "an old module that raises at the given input": (
        lambda: aa.adapt(Pyramid(4), like=Raising(), inputs=image()),
        aa.CaptureError,
        ["Raising raises at the given input", "RuntimeError: needs a licence file"],
    ),
    "inputs with too few channels": (
        lambda: aa.adapt(Pyramid(4), like=Pyramid(4), inputs=torch.randn(2, 1, 32, 32)),
        aa.CaptureError,
        ["Pyramid raises at the given input", "RuntimeError", "channels"],
    ),
    "no inputs, and neither model tells them": (
        lambda: aa.adapt(Pyramid(4), like=Pyramid(6)),
        aa.CaptureError,
        [
            "Pyramid does not tell what it takes",
            "a model that tells its input size",
            "inputs=torch.randn(2, 3, 224, 224)",
        ],
    ),
    "inputs that do not fit the arguments": (
        lambda: aa.capture(Pyramid(4), (image(), image())),
        aa.CaptureError,
        ["the inputs do not fit Pyramid", "a call that fits forward(x", "too many positional arguments"],
    ),
    "like of an unknown type": (
        lambda: aa.adapt(Pyramid(4), like=7, inputs=image()),
        aa.SignatureError,
        ["`like` is of the wrong type", "a module, a Signature, texts", "found     7, of type int", "the model itself"],
    ),
    "like a file that is not there": (
        lambda: aa.adapt(Pyramid(4), like="nowhere.json", inputs=image()),
        aa.SignatureError,
        ["nowhere.json cannot be read", "a signature file (JSON)", "No such file", "Signature.save(path)"],
    ),
    "indices that only floats could serve": (
        lambda: aa.adapt(Pyramid(8), like=texts({"ids": "i32[B, 4] index"}), inputs=image()),
        aa.MatchError,
        ["`ids`", "expected  i32[B, 4], index", "f32[B, 8, ceil(H/2), ceil(W/2)]", "no such integers"],
    ),
    "integers that only floats could serve": (
        lambda: aa.adapt(
            Pyramid(8), like=texts({"ids": "i32[B, ceil(H/2), ceil(W/2)]", "x": stages(2)[0]}), inputs=image()
        ),
        aa.MatchError,
        ["`ids`", "i32[B, ceil(H/2), ceil(W/2)]", "f32 values are no i32 values", "outputs=['x']"],
    ),
    "coordinates from features": (
        lambda: aa.adapt(
            nn.Linear(4, 3),
            like=aa.capture(Coordinates(), cloud()),
            inputs=cloud(),
        ),
        aa.MatchError,
        ["`xyz`", "coordinate values", "coordinates are passed on, never made from features"],
    ),
    "a pair that names no source": (
        lambda: aa.adapt(Plain(), like=texts({"c": stages(4)[0]}), inputs=image(), pairs={"c": "map.0"}),
        aa.MatchError,
        ["pairs['c']", "a path that exists", "found     map.0", "maps.0"],
    ),
    "outputs that do not exist": (
        lambda: aa.adapt(Plain(), like=Mixed(), inputs=image(), outputs=["1.p5"]),
        aa.PlanError,
        ["outputs names something that the old module does not return", "1.p5", "one of 1.p"],
    ),
    "an empty tensor": (
        lambda: aa.adapt(Pyramid(4), like=Pyramid(4), inputs=torch.zeros(0, 3, 32, 32)),
        aa.CaptureError,
        [
            "an input is empty",
            "x",
            "a tensor with at least one value",
            "an empty tensor",
            "torch.randn(2, 3, 224, 224)",
        ],
    ),
    "an axis that no size explains": (
        lambda: aa.capture(Digits(), image()),
        aa.CaptureError,
        [
            "an axis of the output cannot be explained by the input",
            "output, axis 1",
            "an exact function of the input axes",
            "at (B=2, C=3, H=40, W=56)",
            "Signature.parse({...})",
        ],
    ),
    "an axis that depends on values": (
        lambda: aa.capture(Counting(), image()),
        aa.CaptureError,
        ["an axis of the output cannot be explained by the input", "output, axis 0"],
    ),
    "a leaf that appears only at some sizes": (
        lambda: aa.capture(Growing(), image()),
        aa.CaptureError,
        ["the outputs are not the same at every input size", "coarse", "dict of 1", "dict of 2"],
    ),
    "an object that cannot be looked into": (
        lambda: aa.capture(Boxed(), image()),
        aa.CaptureError,
        ["Boxed returns an object that autoadapt cannot look into", "tensors in containers", "Box"],
    ),
    "models on different devices": (
        lambda: aa.adapt(Pyramid(4), like=OnAnotherDevice(), inputs=image()),
        aa.AdaptError,
        ["the two modules are on different devices", "new", "expected  xla:0", "found     cpu", 'new.to("xla:0")'],
    ),
    "a submodule that does not exist": (
        lambda: aa.capture(Plain(), image(), at="bodi"),
        aa.CaptureError,
        ["there is no module at `bodi`", "a path in named_modules()", "nearest: body", 'at="body"'],
    ),
}


class OnAnotherDevice(Pyramid):
    """Says that its parameters stand elsewhere, as there is no second device on every machine."""

    def __init__(self):
        super().__init__(4)

    def parameters(self, recurse=True):
        for parameter in super().parameters(recurse):
            yield Elsewhere(parameter)


class Elsewhere:
    """What is asked of a parameter here."""

    def __init__(self, parameter):
        self.device = torch.device("xla:0")


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_the_place_what_was_expected_found_and_to_do(name):
    call, error, said = REFUSED[name]
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value).__module__ == "autoadapt.errors"
    for text in said:
        assert text in str(caught.value)


def test_sources_that_are_equally_good_are_listed_as_arguments_to_paste():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = Pyramid(4, 6), Pyramid(4, 6)

        def forward(self, x):
            return {"left": self.left(x)[1], "right": self.right(x)[1]}

    like = texts({"wanted": stages(4)[0]})
    with pytest.raises(aa.MatchError) as caught:
        aa.adapt(Twins(), like=like, inputs=image())
    said = str(caught.value)
    assert "equally good: left f32[B, 6, ceil(H/4), ceil(W/4)], right" in said
    assert 'pairs={"wanted": "left"}' in said
    assert 'pairs={"wanted": "right"}' in said
    net = aa.adapt(Twins(), like=like, inputs=image(), pairs={"wanted": "right"})
    assert net.plan.routes[0].source == "right"


def test_two_faults_are_shown_as_two():
    like = texts({"a": "i32[B, 4] index", "b": "i64[B, 7] index", "c": stages(2)[0]})
    with pytest.raises(aa.MatchError) as caught:
        aa.adapt(Pyramid(8), like=like, inputs=image())
    assert [fault.where for fault in caught.value.mismatches] == ["a", "b"]
    assert str(caught.value).startswith("2 outputs cannot be served by Pyramid")


def test_a_refusal_changes_nothing():
    new = Plain()
    before = dict(new.__dict__), [len(m._forward_hooks) for m in new.modules()]
    with pytest.raises(aa.MatchError):
        aa.adapt(new, like=texts({"ids": "i32[B, 4] index"}), inputs=image())
    assert (dict(new.__dict__), [len(m._forward_hooks) for m in new.modules()]) == before


def test_errors_can_be_pickled_for_other_processes():
    import pickle

    with pytest.raises(aa.AdaptError) as caught:
        aa.adapt(Pyramid(4), like=7, inputs=image())
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value)
    assert str(again) == str(caught.value)
    assert again.mismatches == caught.value.mismatches


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
