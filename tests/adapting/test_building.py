"""A built module is a torch.fx graph over the new module's own weights that keeps its habits through every copy."""

import copy
import pickle

import pytest
import timm
import torch
from plan_kinds import KINDS, adapted, example, texts
from point_clouds import PointTransformer, cloud
from small_models import Mixed, Pair, Plain, Pyramid, Record, Tokens, Wrapped, image
from torch import fx, nn
from transformers.modeling_outputs import BackboneOutput

import autoadapt as aa
from autoadapt.contracts import closures
from autoadapt.contracts.trees import flatten


def sound(new=None):
    return aa.adapt(new or Plain(), like=Mixed(), inputs=image())


def test_the_code_is_straight_lines_that_read_the_outputs_by_their_own_names():
    assert sound().code.strip().splitlines() == [
        "def forward(self, image):",
        "    features = self.backbone(image)",
        '    p2 = self.adapters["1_p2"](features["maps"][0])',
        '    p3 = self.adapters["1_p3"](features["maps"][1])',
        '    output_2 = features["labels"].to(torch.int32)',
        '    return image, OrderedDict([("p2", p2), ("p3", p3)]), output_2',
    ]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_every_node_of_the_graph_is_used(kind):
    graph = example(kind)[1].graph
    loose = [node for node in graph.nodes if not node.users and node.op not in ("output", "placeholder")]
    assert [node for node in loose if node.target != "update"] == []


def test_keys_are_those_of_the_backbone_and_of_each_adapter():
    new = Plain()
    net = sound(new)
    keys = [f"backbone.{key}" for key in new.state_dict()]
    keys += [f"adapters.{name}.project.{part}" for name in ("1_p2", "1_p3") for part in ("weight", "bias")]
    assert list(net.state_dict()) == keys


def test_weights_are_shared_with_the_new_module_unless_a_copy_is_asked_for():
    new = Plain()
    own = {tensor.data_ptr() for tensor in new.parameters()}
    shared = aa.build(new, sound(new).plan)
    copied = aa.build(new, sound(new).plan, share=False)
    assert {p.data_ptr() for p in shared.backbone.parameters()} == own
    assert not {p.data_ptr() for p in copied.backbone.parameters()} & own


@pytest.mark.slow
def test_the_new_module_keeps_its_hooks_head_mode_and_gradients():
    new = timm.create_model("resnet18").train()
    calls = []
    new.register_forward_hook(lambda *_: calls.append("hook"))
    net = aa.adapt(new, like=timm.create_model("resnet26", num_classes=7), inputs=image(2, 64, 64))
    net(image(2, 64, 64))[0].sum().backward()
    assert new.training
    assert new.get_classifier().out_features == 1000
    assert all(p.grad is None for p in new.parameters())
    assert type(new(image(2, 64, 64))) is torch.Tensor
    assert "hook" in calls


def test_modes_dtypes_and_devices_follow_the_new_module():
    new = Plain().double().eval()
    old = aa.Signature.parse(["f64[B, 5, ceil(H/4), ceil(W/4)]"], inputs={"x": "f64[B, 3, H, W]"})
    net = aa.adapt(new, like=old, inputs=image().double(), pairs={"0": "maps.0"})
    assert not net.training
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert not any(module.training for module in net.modules())
    assert {p.device.type for p in net.to("meta").parameters()} == {"meta"}
    assert {p.device.type for p in new.parameters()} == {"cpu"}


TWINS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "copy": copy.copy,
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("how", TWINS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_twin_gives_the_same_outputs_in_the_same_containers(how, kind):
    made, net = example(kind)
    twin = TWINS[how](net)
    given = made.inputs if isinstance(made.inputs, tuple) else (made.inputs,)
    expected, found = net(*given), twin(*given)
    assert type(twin) is not fx.GraphModule
    assert isinstance(twin, aa.AdaptedModule)
    assert flatten(found)[0] == flatten(expected)[0]
    assert all(map(torch.equal, flatten(found)[1], flatten(expected)[1]))
    assert twin.plan == net.plan
    assert twin.code == net.code


class Owner:
    """Knows the module that it belongs to."""

    def __init__(self, net):
        self.net = net


def noting(module, args, output):
    module.calls += 1


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_twin_keeps_attributes_hooks_modes_and_references_to_itself(how):
    net = sound().train()
    net.backbone.eval()
    net.out_channels, net.calls, net.owner = [8, 16], 0, Owner(net)
    net.register_forward_hook(noting)
    twin = TWINS[how](net)
    twin(image())
    assert (twin.out_channels, twin.calls, net.calls) == ([8, 16], 1, 0)
    assert twin.owner.net is twin
    assert twin.training
    assert not twin.backbone.training


def test_a_deepcopy_has_weights_of_its_own_for_an_average_of_models():
    net = sound()
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    before = average.module(image())[1]["p2"]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(average.module(image())[1]["p2"], before)


def test_no_copy_searches_the_plan_and_the_graph_for_functions(monkeypatch):
    net, searched, within = sound(), [], closures._within
    net.function = lambda: net.plan
    monkeypatch.setattr(closures, "_within", lambda value: searched.append(value) or within(value))
    copy.deepcopy(net)
    assert net.function in searched
    assert not any(one is net.plan or one is net.graph for one in searched)


def test_a_whole_module_saved_by_torch_comes_back(tmp_path):
    net = sound().eval()
    torch.save(net, tmp_path / "net.pt")
    again = torch.load(tmp_path / "net.pt", weights_only=False)
    assert torch.equal(again(image())[1]["p3"], net(image())[1]["p3"])


def test_the_folder_of_torch_fx_is_refused_with_what_to_do_instead(tmp_path):
    with pytest.raises(aa.BuildError, match=r"aa\.to_source\(net"):
        sound().to_folder(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_state_dict_goes_into_another_build_of_the_same_plan():
    net, other = sound().eval(), sound().eval()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(image())[1]["p3"], net(image())[1]["p3"])


def test_an_error_in_the_forward_pass_is_raised_and_nothing_is_printed(capfd):
    with pytest.raises(RuntimeError):
        sound()(torch.zeros(1, 4, 32, 32))
    assert capfd.readouterr().err == ""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("container", [Pair, Record, BackboneOutput], ids=lambda cls: cls.__name__)
def test_outputs_come_in_the_classes_of_the_old_module(container):
    if container is BackboneOutput:

        def container(fine, coarse):
            return BackboneOutput(feature_maps=(fine, coarse), hidden_states=None)

    old = Wrapped(container)
    net = aa.adapt(Pyramid(6, 12), like=old, inputs=image())
    assert type(net(image())) is type(old(image()))
    assert [tuple(t.shape) for t in flatten(net(image()))[1]] == [tuple(t.shape) for t in flatten(old(image()))[1]]
    assert net.verify(image()).passed


def test_names_that_torch_refuses_are_escaped_and_stay_apart():
    names = ["keys", "type", "a.b", "a_b", "forward", "", "0", "ü", "train", "a b"]
    like = texts(dict.fromkeys(names, "f32[B, 5, ceil(H/2), ceil(W/2)]"))
    net = aa.adapt(Pyramid(4), like=like, inputs=image())
    assert list(net(image())) == names
    assert len(net.adapters._modules) == len(names)
    assert net.verify(image()).passed


def test_arguments_that_were_no_tensors_have_the_defaults_they_had():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Pyramid(4)

        def forward(self, x, scale=2, name="a"):
            return self.body(x)[0] * scale

    net = aa.adapt(Pyramid(4), like=Scaled(), inputs=(image(), 2))
    assert torch.equal(net(image()), net(image(), 2, name="a"))


def test_a_dict_that_counts_as_absent_while_it_is_empty_is_not_touched():
    plan = example("points")[1].plan
    target = plan.target.model_copy(update={"replaced_when_empty": ("end_points",)})
    net = aa.build(PointTransformer(), plan.model_copy(update={"target": target}))
    empty, filled = {}, {"before": 1}
    assert net(cloud(), empty) is not empty
    assert empty == {}
    assert net(cloud(), filled) is filled
    assert list(filled) == ["before", "fp2_features", "fp2_xyz", "fp2_inds"]
    assert list(net(cloud())) == ["fp2_features", "fp2_xyz", "fp2_inds"]


def test_what_consumers_read_off_the_old_module_is_said_by_the_new_one():
    old, new = timm.create_model("resnet26", features_only=True), timm.create_model("resnet18", features_only=True)
    net = aa.adapt(new, like=old, inputs=image(2, 64, 64))
    assert net.feature_info.channels() == old.feature_info.channels() == [64, 256, 512, 1024, 2048]
    assert [one.shape[1] for one in net(image(2, 64, 64))] == net.feature_info.channels()
    net.feature_info.info[0]["num_chs"] = 1
    assert old.feature_info.channels()[0] == 64
    pyramid = aa.adapt(Pyramid(4, 8), like=Pyramid(6, 12), inputs=image())
    assert pyramid.out_channels == [6, 12]
    assert copy.deepcopy(pyramid).out_channels == [6, 12]
    assert not hasattr(aa.adapt(Pyramid(4), like=Plain().body, inputs=image(), outputs=["0"]), "strides")


def test_recipes_of_the_backbone_know_its_new_names():
    optim = pytest.importorskip("timm.optim")
    if not hasattr(optim, "param_groups_layer_decay"):
        pytest.skip("timm 1.0.11 has it, older ones have not")
    new = timm.create_model("vit_tiny_patch16_224", depth=2)
    net = aa.adapt(new, like=texts("f32[B, 5]"), inputs=torch.randn(2, 3, 224, 224))
    assert net.no_weight_decay() == {f"backbone.{name}" for name in new.no_weight_decay()}
    groups = optim.param_groups_layer_decay(net, no_weight_decay_list=net.no_weight_decay(), layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    named = dict(net.named_parameters())
    assert (
        scales[id(named["backbone.blocks.0.attn.qkv.weight"])] < scales[id(named["backbone.blocks.1.attn.qkv.weight"])]
    )
    assert scales[id(named["adapters.output.project.weight"])] == 1.0
    assert len(scales) == len(named)
    assert len(optim.param_groups_weight_decay(net, no_weight_decay_list=net.no_weight_decay())) == 2


def test_gradient_checkpointing_reaches_the_backbone_and_gives_the_same_gradients():
    net = aa.adapt(timm.create_model("resnet18", features_only=True), like=texts("f32[B, 5]"), inputs=image(2, 64, 64))
    grads = []
    for on in (False, True):
        net.set_grad_checkpointing(on)
        net.zero_grad()
        torch.manual_seed(0)
        net.train()(image(2, 64, 64)).sum().backward()
        grads.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*grads, strict=True))


def test_a_recipe_that_the_backbone_lacks_is_no_attribute():
    assert not hasattr(sound(), "set_grad_checkpointing")


def test_parameters_are_told_apart_for_optimisers():
    net = sound()
    groups = aa.param_groups(net)
    assert len(groups["backbone"]) == len(list(net.backbone.parameters()))
    assert len(groups["adapters"]) == 4
    assert {id(p) for group in groups.values() for p in group} == {id(p) for p in net.parameters()}


def test_tokens_become_a_map_row_by_row():
    net = aa.adapt(Tokens(8, 12), like=texts("f32[B, 12, floor(H/8), floor(W/8)]"), inputs=image())
    x = image(2, 40, 56)
    expected = net.backbone.embed(x)
    assert torch.equal(net(x), expected)
    assert aa.param_groups(net)["adapters"] == []


def test_a_map_becomes_tokens_row_by_row():
    net = aa.adapt(Pyramid(4), like=texts("f32[B, ceil(H/2)*ceil(W/2), 4]"), inputs=image()).eval()
    assert torch.equal(net(image()), net.backbone(image())[0].flatten(2).transpose(1, 2))


def test_pooling_averages_whole_cells_and_the_cut_ones_at_the_border():
    net = aa.adapt(nn.Conv2d(3, 3, 1), like=texts("f32[B, 3, ceil(H/4), ceil(W/4)]"), inputs=image())
    nn.init.dirac_(net.backbone.weight)
    nn.init.zeros_(net.backbone.bias)
    x = torch.full((1, 3, 9, 13), 5.0)
    assert torch.allclose(net(x), torch.full((1, 3, 3, 4), 5.0))


@pytest.mark.slow
def test_compiled_without_graph_breaks_it_gives_the_same_at_every_size():
    net = adapted(KINDS["tokens to a coarser map"]()).eval()
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend="eager")
    for batch, height, width in ((2, 40, 56), (3, 48, 72), (1, 33, 61)):
        x = image(batch, height, width)
        assert torch.allclose(compiled(x)[0], net(x)[0], atol=1e-6)
    torch._dynamo.reset()


class Stages(nn.Module):
    """Three levels; what stands before the last may write into the one before."""

    def __init__(self, activation=torch.relu) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, 2, 1) for i in range(3))
        self.activation = activation

    def forward(self, x):
        first = self.stages[0](x)
        second = self.stages[1](first)
        third = self.stages[2](self.activation(second))
        return [first, second, third]


LEVEL_2 = aa.Signature.parse("f32[B, 8, ceil(H/4), ceil(W/4)]", inputs="f32[B, 3, H, W]")


def test_what_only_serves_outputs_that_are_not_read_is_cut_and_counted():
    new = Stages().eval()
    net = aa.adapt(new, like=LEVEL_2, inputs=image())
    assert net.plan.cut == ("stages.2",)
    assert net.plan.saved.parameters == sum(p.numel() for p in new.stages[2].parameters())
    assert net.plan.saved.multiply_adds == 5 * 7 * 8 * 8 * 9
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(net(image()), new(image())[1])
    assert net.verify(image()).passed


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), torch.relu_])
def test_nothing_is_cut_that_writes_into_an_output_that_is_read(activation):
    new = Stages(activation).eval()
    net = aa.adapt(new, like=LEVEL_2, inputs=image())
    assert net.plan.cut == ("stages.2",)
    assert torch.equal(net(image()), new(image())[1])
    assert net(image()).min() == 0


def test_the_deepest_stage_of_a_feature_extractor_goes_where_only_shallow_levels_are_read():
    new = timm.create_model("resnet10t", features_only=True).eval()
    levels = [f"f32[B, 64, ceil(H/{stride}), ceil(W/{stride})]" for stride in (4, 8)]
    net = aa.adapt(new, like=aa.Signature.parse(levels, inputs="f32[B, 3, H, W]"), inputs=image()).eval()
    assert net.plan.cut == ("layer3", "layer4")
    assert torch.equal(net(image())[0], new(image())[1])
    assert "nn.Sequential()" in aa.to_source(net)


def test_adapters_read_what_autocast_inside_the_new_module_makes():
    class InBfloat16(nn.Conv2d):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    x = torch.randn(2, 3, 16, 16)
    net = aa.adapt(InBfloat16(3, 5, 4, 4), like=nn.Conv2d(3, 8, 4, 4), inputs=x)
    assert (net(x).shape, net(x).dtype) == ((2, 8, 4, 4), torch.float32)
    assert {parameter.dtype for parameter in net.adapters.parameters()} == {torch.bfloat16}
    net(x).sum().backward()
