"""Plain classifiers as backbones: which inner outputs are taken, and what taking them leaves untouched."""

import copy
import pickle

import pytest
import timm
import torch
import torch.distributed as dist
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import autoadapt as aa
from autoadapt.adapting.taps import block_boundaries
from autoadapt.assembly.levels import levels_of
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.tapping import tap
from autoadapt.contracts.views import view
from autoadapt.errors import CaptureError, PlanError

PYRAMID = [f"f32[B, {8 * s}, ceil(H/{s}), ceil(W/{s})]" for s in (2, 4, 8, 16, 32)]


def contract(levels=PYRAMID):
    return aa.Signature.parse(levels, inputs={"x": "f32[B, 3, H, W]"})


def classifier(name, **options):
    return timm.create_model(name, **options).eval()


def boundaries(name):
    signature = capture(classifier(name), torch.empty(2, 3, 64, 64, device="meta"), inner=True)
    found = {}
    for output in block_boundaries(signature.inner, signature.sizes()):
        found[output.name] = output
    return list(found)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("resnet18", ["act1", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]),
        ("mobilenetv2_050", ["blocks.0.0", "blocks.1.1", "blocks.2.2", "blocks.4.2", "blocks.6.0"]),
        ("resnest14d", ["act1", "layer1.0", "layer2.0", "layer3.0", "layer4.0"]),  # a stem of three convolutions
        ("resnetblur18", ["act1", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]),  # pooling in two steps
        ("rexnet_100", ["features.0", "features.2", "features.4", "features.10", "features.15"]),
    ],
)
def test_the_last_block_of_each_stride_is_taken(name, last):
    net = aa.adapt(classifier(name), like=contract(), inputs=torch.empty(2, 3, 224, 224, device="meta"))
    taken = [route.source for route in net.plan.routes]
    inner = {o.name: o for o in capture(classifier(name), torch.empty(2, 3, 64, 64), inner=True).inner}
    same = [a == b or inner[a].same_as == inner[b].same_as != "" for a, b in zip(taken, last, strict=True)]
    assert all(same), taken


def sources(model, levels=PYRAMID):
    return [route.source for route in aa.plan(capture(model, IMAGES, inner=True), contract(levels)).routes]


IMAGES = torch.empty(2, 3, 224, 224, device="meta")


@pytest.mark.slow
def test_a_level_that_the_model_lists_itself_goes_before_a_deeper_one_and_the_plan_says_so():
    model = classifier("ghostnet_050")
    net = aa.adapt(model, like=contract(), inputs=IMAGES)
    listed = [level["module"] for level in model.feature_info]
    found = {output.name: output for output in capture(model, IMAGES, inner=True).inner}
    same = {name: found[name].same_as or name for name in (*listed, *(route.source for route in net.plan.routes))}
    assert [same[route.source] for route in net.plan.routes] == [same[name] for name in listed]
    route = net.plan.routes[3]
    assert route.remark == "GhostNet lists blocks.5.0 as its level, before blocks.6.4"
    assert "blocks.6.4" in route.others


@pytest.mark.slow
def test_a_config_gets_the_levels_that_the_model_lists_too():
    levels = levels_of(capture(classifier("ghostnet_050"), IMAGES, inner=True))
    assert [level.path for level in levels if level.stride][1:] == [
        "blocks.1.0",
        "blocks.3.0",
        "blocks.5.0",
        "blocks.7.0",
    ]


@pytest.mark.slow
def test_without_its_list_or_with_a_wrong_one_the_last_block_is_taken():
    model = classifier("ghostnet_050")
    listed = model.feature_info
    found = []
    for levels in (None, 3, [{"module": "blocks.5"}], [{**one, "num_chs": 7} for one in listed], ["blocks.5"]):
        model.feature_info = levels
        found.append(sources(model)[1:4])
    assert found == [["blocks.2.0", "blocks.4.0", "blocks.6.4"]] * 5


def test_where_fewer_levels_are_listed_than_wanted_at_a_stride_blocks_are_spread_as_ever():
    two = [f"f32[B, {channels}, ceil(H/16), ceil(W/16)]" for channels in (8, 16)]
    assert sources(classifier("ghostnet_050"), two) == ["blocks.6.1", "blocks.6.4"]


VECTOR = aa.Signature.parse("f32[B, 512]", inputs={"x": "f32[B, 3, H, W]"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "source", "operations"),
    [
        (lambda: torchvision.models.resnet18(), "avgpool", ["rearrange"]),
        (lambda: timm.create_model("resnet18"), "global_pool", []),
        (lambda: timm.create_model("vit_tiny_patch16_224", depth=1), "head_drop", ["project"]),
        (lambda: torchvision.models.mobilenet_v3_small(), "classifier.2", ["project"]),
    ],
)
def test_pooled_features_are_what_the_last_layer_of_a_classifier_reads_not_a_map_of_its_logits(
    make, source, operations
):
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, 3, 224, 224)
    net = aa.adapt(model, like=VECTOR, inputs=x)
    (route,) = net.plan.routes
    assert route.source == source
    assert [step.op for step in route.steps] == operations
    read = {}
    model.get_submodule(net.plan.cut[-1]).register_forward_pre_hook(lambda _module, args: read.update(x=args[0]))
    model(x)
    assert torch.equal(net.backbone(x)[0].flatten(1), read["x"])
    assert net.verify(x, sizes=[{}]).passed


def test_logits_that_are_wanted_as_they_are_come_from_the_classifier_itself():
    like = aa.Signature.parse("f32[B, 1000]", inputs={"x": "f32[B, 3, H, W]"})
    net = aa.adapt(classifier("resnet18"), like=like, inputs=IMAGES)
    assert (net.plan.routes[0].source, net.plan.routes[0].steps, net.plan.cut) == ("output", (), ())


@pytest.mark.parametrize("last", [nn.ReLU(inplace=True), nn.Tanh(), nn.Sequential(nn.ReLU(inplace=True))])
def test_features_behind_an_activation_are_no_linear_map_of_what_the_layer_before_reads(last):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), last)
    net = aa.adapt(model, like=VECTOR, inputs=torch.zeros(2, 3, 16, 16))
    assert [route.source for route in net.plan.routes] == ["output"]


@pytest.mark.slow
def test_a_single_convolution_before_the_pooling_is_not_a_level():
    names = boundaries("mobilenetv2_050")
    assert "conv_head" not in names
    assert names[-1] == "blocks.6.0"


@pytest.mark.slow
def test_torchvision_mobilenet_gives_the_levels_of_the_oriented_detector_without_being_told():
    old = ["f32[B, 3, H, W] = inputs.x", *(f"f32[B, {c}, ceil(H/{s}), ceil(W/{s})]" for c, s in LEVELS)]
    net = aa.adapt(torchvision.models.mobilenet_v2().eval(), like=contract(old), inputs=torch.randn(1, 3, 96, 96))
    taken = {route.source: route.specs[0].dims[1] for route in net.plan.routes[2:]}
    assert taken == {"features.3": 24, "features.6": 32, "features.13": 96, "features.17": 320}
    assert "classifier" in net.plan.cut
    for size in (512, 200, 221):
        x = torch.randn(1, 3, size, size)
        with torch.no_grad():
            levels = net(x)
        assert levels[0] is x
        assert [level.shape[2] for level in levels[1:]] == [-(-size // stride) for _, stride in LEVELS]


LEVELS = [(64, 2), (256, 4), (512, 8), (1024, 16), (2048, 32)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224"]
)
def test_a_classifier_of_one_image_size_serves_every_size(name):
    net = aa.adapt(classifier(name), like=contract()).eval()
    with torch.no_grad():
        for height, width in ((640, 480), (224, 224), (97, 131)):
            shapes = [tuple(level.shape[2:]) for level in net(torch.randn(1, 3, height, width))]
            assert shapes == [(-(-height // s), -(-width // s)) for s in (2, 4, 8, 16, 32)]


@pytest.mark.slow
def test_blocks_of_one_stride_are_spread_evenly_and_the_deeper_target_gets_the_deeper_tap():
    levels = [f"f32[B, 32, ceil(H/{s}), ceil(W/{s})]" for s in (4, 8, 16, 32)]
    net = aa.adapt(classifier("vit_tiny_patch16_224"), like=contract(levels))
    assert [route.source for route in net.plan.routes] == ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]


def test_taps_chosen_by_hand_are_taken_and_swapping_two_changes_what_comes_out():
    torch.manual_seed(0)
    new = classifier("resnet18", zero_init_last=False)  # else a fresh block gives back what it gets
    x = torch.randn(1, 3, 64, 64)
    same = ["f32[B, 64, ceil(H/4), ceil(W/4)]", "f32[B, 64, ceil(H/4), ceil(W/4)]"]
    given, turned = (
        aa.adapt(new, like=contract(same), inputs=x, taps=dict(zip("01", names, strict=True))).eval()
        for names in (("layer1.0", "layer1.1"), ("layer1.1", "layer1.0"))
    )
    with torch.no_grad():
        first, second = given(x), turned(x)
    assert torch.equal(first[0], second[1])
    assert torch.equal(first[1], second[0])
    assert not torch.equal(first[0], second[0])


class Uneven(nn.Module):
    """Modules that cannot be tapped, each in its own way, before a real network."""

    def __init__(self):
        super().__init__()
        self.halve = nn.MaxPool2d(2)
        self.words = Words()
        self.never = nn.Conv2d(3, 3, 1)
        self.inner = classifier("resnet10t")

    def forward(self, x):
        self.words(x)
        small = x
        while small.shape[-1] > 16:
            small = self.halve(small)
        return self.inner(x)


class Words(nn.Module):
    def forward(self, x):
        return "no tensor"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("tap_", "why"),
    [
        ("inner.layer44", "`inner.layer44` does not exist"),
        ("words", "`words` returns no tensor"),
        ("halve", "`halve` is called a varying number of times (2 at the probed size)"),
        ("never", "`never` is never called"),
        ("inner.layer4@3", "`inner.layer4@3` is none of what it returns: inner.layer4"),
    ],
)
def test_a_tap_that_cannot_be_taken_is_refused_with_the_reason_and_the_nearest(tap_, why):
    new, x = Uneven(), torch.randn(1, 3, 64, 64)
    with pytest.raises(PlanError) as refused:
        aa.adapt(new, like=contract(), inputs=x, taps={"4": tap_})
    assert why in refused.value.mismatches[0].found
    if "layer4" in tap_:
        assert 'taps={"4": "inner.layer4"}' in refused.value.mismatches[0].remedy


def test_a_tap_on_a_view_that_does_not_exist_is_refused():
    with pytest.raises(CaptureError, match="a tap does not exist"):
        tap(view(classifier("resnet18")), [("layer9", 0, "output")])


def test_two_modules_of_one_name_are_refused():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)))
    model._modules["0.0"] = nn.Conv2d(4, 4, 1)
    with pytest.raises(CaptureError, match="inner modules that share a name"):
        aa.capture(model, torch.randn(1, 3, 8, 8))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["resnet18", "fasternet_t0"])
def test_the_users_model_gives_the_same_and_has_no_hook_more(name):
    new, x = classifier(name), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = new(x)
    net = aa.adapt(new, like=contract(), inputs=x)
    net.half()
    net.float()
    torch.stack([level.mean() for level in net(x)]).sum().backward()
    with torch.no_grad():
        assert torch.equal(new(x), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in new.modules())
    assert all(parameter.grad is None and parameter.dtype == torch.float32 for parameter in new.parameters())


@pytest.mark.slow
def test_the_weights_are_shared_until_a_move_and_copied_on_request():
    new, x = classifier("resnet18"), torch.randn(1, 3, 64, 64)
    shared = aa.adapt(new, like=contract(), inputs=x)
    owned = aa.adapt(new, like=contract(), inputs=x, share=False)
    assert shared.backbone.conv1.weight.data_ptr() == new.conv1.weight.data_ptr()
    assert owned.backbone.conv1.weight.data_ptr() != new.conv1.weight.data_ptr()


def test_a_compiled_classifier_is_taken_for_what_it_wraps():
    new, x = classifier("resnet18"), torch.randn(1, 3, 64, 64)
    net = aa.adapt(torch.compile(new, backend="eager"), like=contract(), inputs=x)
    assert [level.shape[1] for level in net(x)] == [16, 32, 64, 128, 256]
    torch._dynamo.reset()


def test_taps_survive_deepcopy_and_pickle():
    x = torch.randn(1, 3, 64, 64)
    net = aa.adapt(classifier("resnet18"), like=contract(), inputs=x).eval()
    with torch.no_grad():
        expected = net(x)
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert all(map(torch.equal, twin(x), expected))


@pytest.mark.slow
def test_no_parameter_is_left_without_gradient_in_distributed_training(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        # The class token of CaiT is read behind the last tap only.
        for name, options in (("resnet18", {}), ("cait_xxs24_224", {"depth": 3})):
            net = aa.adapt(timm.create_model(name, **options), like=contract())
            trained = DistributedDataParallel(net, find_unused_parameters=False)
            for _ in range(2):  # the second pass raises where the first left a parameter out
                torch.stack([level.mean() for level in trained(torch.randn(2, 3, 224, 224))]).sum().backward()
            assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (2, 4, 8, 16, 32), (8, 16, 32)])
def test_deeper_levels_get_deeper_taps_also_where_heads_are_as_large_as_a_grid(strides):
    # Queries of 16 tokens and 16 channels, `[B, 3, 16, 16]`, are no map of 32 x 32 pixels at stride 2.
    new = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, in_chans=1, embed_dim=48, depth=8, num_heads=3, class_token=False, global_pool="avg"
    )
    levels = [f"f32[B, 32, ceil(H/{stride}), ceil(W/{stride})]" for stride in strides]
    like = aa.Signature.parse(levels, inputs="f32[B, 1, H, W]")
    taps = [route.source for route in aa.adapt(new, like=like, inputs=torch.randn(2, 1, 32, 32)).plan.routes]
    assert all(tap.startswith("blocks.") for tap in taps)
    assert [int(tap.split(".")[1]) for tap in taps] == sorted({int(tap.split(".")[1]) for tap in taps})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "taps"),
    [
        # 64 windows' tokens, 64 channels and 64 x 64 cells are different things.
        ("maxvit_rmlp_nano_rw_256", ["stem", "stages.0", "stages.1", "stages.2", "stages.3"]),
        # A table of relative positions `[27, 27, 8]` is no sequence of tokens.
        ("coatnet_rmlp_nano_rw_224", ["stem", "stages.0", "stages.1", "stages.2", "stages.3"]),
    ],
)
def test_equal_numbers_of_different_things_are_told_apart_at_one_image_size(name, taps):
    with torch.device("meta"):
        model = timm.create_model(name)
    net = aa.adapt(model, like=contract())
    assert [route.source for route in net.plan.routes] == taps


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["test_efficientnet", "mobilenetv4_conv_small_035"])
def test_a_stage_of_single_layers_is_read_where_it_is_read_under_gradient_checkpointing(name):
    """timm then runs the layers of all stages one by one, so that no stage is called."""
    net = aa.adapt(classifier(name), like=contract(), inputs=IMAGES).train()
    net.set_grad_checkpointing(True)
    levels = net(torch.randn(2, 3, 64, 64))
    torch.stack([level.mean() for level in levels]).sum().backward()
    found = {output.name: output for output in capture(classifier(name), IMAGES, inner=True).inner}
    taken = [route.source for route in net.plan.routes if route.source.startswith("blocks.")]
    assert taken
    assert all(found[name].kind != "Sequential" for name in taken)
