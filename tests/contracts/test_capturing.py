"""Capture finds every axis as an exact function of the input, and leaves no trace on what it ran."""

import copy
import random
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings, strategies as st
from point_clouds import PointNet, PointTransformer, cloud
from sleeping_threads import while_threads_sleep
from small_models import Mixed, Plain, Pyramid, Tokens, image
from torch import nn
from transformers import ViTConfig, ViTModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

import autoadapt as aa
from autoadapt.contracts.trees import find_type

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25, database=None)

convolutions = st.builds(
    lambda kernel, stride, padding, dilation: nn.Conv2d(
        2, 2, kernel, stride, min(padding, kernel // 2 * dilation), dilation
    ),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 2),
)
poolings = st.builds(
    lambda kernel, stride, up: nn.MaxPool2d(kernel, stride, ceil_mode=up),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
upsamplings = st.integers(2, 3).map(lambda scale: nn.Upsample(scale_factor=scale))
chains = st.lists(st.one_of(convolutions, poolings, upsamplings), min_size=1, max_size=4).map(
    lambda parts: nn.Sequential(*parts)
)


def ran(module, *shape):
    with torch.no_grad():
        return module(torch.zeros(shape)).shape


@pytest.mark.slow
@SETTINGS
@given(chains, st.integers(60, 200), st.integers(60, 200), st.integers(1, 4))
def test_chains_of_convolutions_poolings_and_upsamplings_are_exact_at_sizes_never_seen(chain, height, width, batch):
    signature = aa.capture(chain, torch.zeros(2, 2, 120, 150))
    (spec,) = signature.outputs.leaves
    assert signature.unverified == ()
    assert spec.shape({"B": batch, "C": 2, "H": height, "W": width}) == ran(chain, batch, 2, height, width)


def axes(signature):
    return {name: str(sizes) for name, sizes in signature.axes.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("height", "halvings"), [(224, 9), (320, 9), (64, 10)])
def test_levels_of_small_detectors_with_strides_of_512_and_more_are_exact(height, halvings):
    module = nn.Sequential(*(nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(halvings))).to("meta")
    signature = aa.capture(module, torch.empty(2, 3, height, height, device="meta"))
    assert str(signature.outputs["output"]) == f"f32[B, 3, ceil(H/{2**halvings}), ceil(W/{2**halvings})]"


def test_the_axes_that_may_vary_are_named_and_their_steps_said():
    model = timm.create_model(
        "vit_tiny_patch16_224", dynamic_img_size=True, depth=1, features_only=True, out_indices=[0]
    )
    signature = aa.capture(model, torch.randn(2, 3, 64, 96))
    assert axes(signature) == {"B": "any size", "H": "multiples of 16", "W": "multiples of 16"}


def test_a_model_of_one_size_says_so():
    signature = aa.capture(timm.create_model("vit_tiny_patch16_224", depth=1), torch.randn(2, 3, 224, 224))
    assert axes(signature) == {"B": "any size", "H": "224 only", "W": "224 only"}
    assert str(signature.outputs.leaves[0]) == "f32[B, 1000]"


def test_tokens_are_products_of_axes_and_their_prefix_is_counted():
    signature = aa.capture(Tokens(8, 12), image())
    assert str(signature.outputs.leaves[0]) == "f32[B, floor(H/8)*floor(W/8) + 1, 12]"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("name", "third"), [("resnet18", "ceil(H/8)"), ("densenet121", "ceil((H - 4)/8)"), ("mobilenetv2_050", "ceil(H/8)")]
)
def test_declared_strides_are_alike_where_captured_sizes_are_not(name, third):
    model = timm.create_model(name, features_only=True)
    signature = aa.capture(model, torch.randn(2, 3, 97, 131))
    assert third in str(signature.outputs["2"].dims[2])
    with torch.no_grad():
        for spec, found in zip(signature.outputs.leaves, model.eval()(torch.randn(1, 3, 75, 90)), strict=True):
            assert spec.shape({"B": 1, "H": 75, "W": 90}) == tuple(found.shape)


class Half(nn.Module):
    """The lower half of the rows, and a mean."""

    def forward(self, x):
        return x[:, :, x.shape[2] // 2 :], x.flatten(2).mean(-1)


def test_slices_and_reductions_are_functions_of_the_input():
    first, second = aa.capture(Half(), image()).outputs.leaves
    assert str(first) == "f32[B, C, ceil(H/2), W]"
    assert str(second) == "f32[B, C]"


class Traced(nn.Module):
    """Keeps state of every kind: buffers that training updates, a cache, a counter, hooks, and draws numbers."""

    def __init__(self, fails=False):
        super().__init__()
        self.body = Pyramid(4)
        self.register_buffer("calls", torch.zeros(()))
        self.cache, self.count, self.fails = {}, 0, fails

    def forward(self, x):
        self.calls += 1
        self.count += 1
        self.cache[tuple(x.shape)] = x
        noise = torch.rand(1, device=x.device) + random.random() + np.random.rand()
        if self.fails:
            raise RuntimeError("as planned")
        return self.body(x)[0] + noise


def everything(model):
    """What stands in the attributes of all modules, and the random generators."""
    attributes = {
        name: {
            key: value for key, value in module.__dict__.items() if key not in ("_modules", "_parameters", "_buffers")
        }
        for name, module in model.named_modules()
    }
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return copy.deepcopy(attributes), state, torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()


@pytest.mark.parametrize("fails", [False, True], ids=["runs", "raises"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@while_threads_sleep
def test_nothing_of_the_module_nor_the_generators_changes(fails, training):
    model = Traced(fails).train(training)
    model.body.register_forward_hook(lambda *_: None)
    before = everything(model)
    if fails:
        with pytest.raises(aa.CaptureError):
            aa.capture(model, image())
    else:
        aa.capture(model, image())
    after = everything(model)
    assert str(after[0]) == str(before[0])
    assert all(torch.equal(after[1][name], tensor) for name, tensor in before[1].items())
    assert torch.equal(after[2], before[2])
    assert np.array_equal(after[3], before[3])
    assert after[4] == before[4]
    assert model.cache == {}


def test_a_cache_kept_by_a_real_model_is_not_left_on_meta():
    model = timm.create_model("levit_128s").eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = model(x)
    aa.capture(model, x)
    with torch.no_grad():
        assert torch.equal(model(x), expected)


def test_a_module_that_runs_in_inference_mode_is_captured_with_what_is_inside():
    class Inferring(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 4, stride=4)

        @torch.inference_mode()
        def forward(self, x):
            return self.stem(x)

    signature = aa.capture(Inferring(), image(), inner=True)
    assert [output.output for output in signature.inner] == ["output"]


class Anchored(nn.Module):
    """Counts the cells of an image once, and keeps the count until the size changes."""

    def __init__(self):
        super().__init__()
        self.stem, self.known = nn.Conv2d(3, 4, 4, stride=4), None

    def forward(self, x):
        levels = self.stem(x)
        if self.known is None or self.known[0] != levels.shape[2:]:
            self.known = levels.shape[2:], torch.ones(levels.shape[2:], device=x.device).sum().int().item()
        return levels, levels.flatten(2)[..., : self.known[1]]


@pytest.mark.parametrize("ran_before", [False, True])
def test_what_a_module_keeps_from_its_last_call_does_not_make_it_one_of_a_single_size(ran_before):
    module, x = Anchored(), torch.rand(1, 3, 32, 48)
    if ran_before:
        module(x)
    signature = aa.capture(module, x)
    assert [str(spec) for spec in signature.outputs.leaves] == [
        "f32[B, 4, floor(H/4), floor(W/4)]",
        "f32[B, 4, floor(H/4)*floor(W/4)]",
    ]
    assert (module.known is not None) == ran_before


def test_the_callers_tensors_are_not_written_to():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.relu_().round_().cumsum(1)

    x = image()
    before = x.clone()
    aa.capture(InPlace(), x)
    assert torch.equal(x, before)


def test_what_cannot_run_without_values_is_run_for_real():
    signature = aa.capture(PointNet(), (cloud(), {}))
    outputs = dict(signature.outputs.items())
    assert len(outputs) == 13
    assert {path: str(spec) for path, spec in outputs.items() if path.startswith("fp2")} == {
        "fp2_features": "f32[B, 288, 16]",
        "fp2_xyz": "f32[B, 16, 3] coordinate = sa2_xyz",
        "fp2_inds": "i32[B, 16] index",
    }
    assert axes(signature) == {"B": "any size", "N": "any size"}
    assert "gather(inputs.cloud[..., :3], 1, fp2_inds) == fp2_xyz" in map(str, signature.invariants)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("given", [{}, {"before": torch.zeros(1)}], ids=["empty", "filled"])
def test_an_argument_that_is_filled_in_is_found(given):
    assert aa.capture(PointNet(), (cloud(), given)).filled == {"end_points": ""}


def test_lists_of_points_have_roles_and_invariants():
    signature = aa.capture(PointTransformer(), cloud())
    assert {path: spec.role for path, spec in signature.outputs.items()} == {
        "fp_xyz.0": "coordinate",
        "fp_xyz.1": "coordinate",
        "fp_features.0": "feature",
        "fp_features.1": "feature",
        "fp_indices.0": "index",
        "fp_indices.1": "index",
    }
    assert len(signature.invariants) == 2


def test_outputs_that_are_the_input_itself_are_noted_as_such():
    signature = aa.capture(Mixed(), image())
    assert [spec.same_as for spec in signature.outputs.leaves] == ["inputs.image", "", "", ""]
    assert signature.outputs["2"].dtype == "i32"


def test_the_same_tensor_twice_is_noted():
    class Twice(nn.Module):
        def forward(self, x):
            y = x * 2
            return {"a": y, "b": [y, y.clone()]}

    assert [spec.same_as for spec in aa.capture(Twice(), image()).outputs.leaves] == ["", "a", ""]


def test_outputs_of_transformers_keep_their_class():
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    signature = aa.capture(ViTModel(config))
    assert find_type(signature.outputs.tree.type) is BaseModelOutputWithPooling
    assert {path: str(spec) for path, spec in signature.outputs.items()} == {
        "last_hidden_state": "f32[B, floor(H/8)*floor(W/8) + 1, 16]",
        "pooler_output": "f32[B, 16]",
    }


def test_named_containers_of_torchvision_are_kept():
    fpn = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    signature = aa.capture(fpn, torch.randn(1, 3, 64, 96))
    assert signature.outputs.tree.kind == "ordered_dict"
    assert signature.outputs.paths == ("0", "1", "2", "3", "pool")
    assert str(signature.outputs["2"]) == "f32[B, 256, ceil(H/16), ceil(W/16)]"


def test_inner_modules_are_noted_when_asked_for():
    signature = aa.capture(timm.create_model("resnet18"), torch.randn(2, 3, 64, 64), inner=True)
    found = {one.module: str(one.spec) for one in signature.inner}
    assert found["layer2"] == "f32[B, 128, ceil(H/8), ceil(W/8)]"
    assert found["global_pool"] == "f32[B, 512]"
    assert aa.capture(timm.create_model("resnet18"), torch.randn(2, 3, 64, 64)).inner == ()


def test_sizes_that_run_only_here_and_there_are_not_generalised():
    class FewSizes(nn.Module):
        def forward(self, x):
            if x.shape[2] not in (40, 41, 48):
                raise ValueError("no such size")
            return x[:, :, ::2]

    signature = aa.capture(FewSizes(), torch.zeros(1, 1, 40, 1))
    assert "H" not in signature.axes
    assert str(signature.outputs.leaves[0]) == "f32[B, C, 20, W]"


def test_half_precision_and_double_are_noted():
    assert str(aa.capture(Pyramid(4).double(), image().double()).outputs.leaves[0]) == "f64[B, 4, ceil(H/2), ceil(W/2)]"
    assert aa.capture(Pyramid(4).bfloat16(), image().bfloat16()).outputs.leaves[0].dtype == "bf16"


def test_a_module_without_tensor_inputs_is_captured_too():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(5, 4))

        def forward(self, name="all"):
            return OrderedDict(weight=self.weight, name=name)

    signature = aa.capture(Table(), ())
    assert str(signature.outputs["weight"]) == "f32[5, 4]"


def test_equal_modules_have_equal_signatures():
    assert aa.capture(Plain(), image()) == aa.capture(Plain(), image())


@pytest.mark.parametrize(
    "module", [nn.GRU(4, 6, batch_first=True), nn.LSTM(4, 6, batch_first=True)], ids=["gru", "lstm"]
)
def test_recurrent_modules_keep_their_sequence(module):
    signature = aa.capture(module, torch.randn(2, 5, 4))
    assert [str(spec) for spec in signature.outputs.leaves][:2] == ["f32[B, N, 6]", "f32[1, B, 6]"]


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(4, 6, num_layers=2, bidirectional=True),
        nn.GRU(4, 6, num_layers=2, bidirectional=True, batch_first=True),
        nn.LSTM(4, 6, proj_size=3, batch_first=True),
        nn.RNN(4, 6),
    ],
    ids=["both ways", "gru both ways", "projected", "rnn"],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_recurrent_modules_return_what_is_captured(module):
    signature = aa.capture(module, torch.randn(2, 5, 4))
    made = module(torch.randn(3, 7, 4))
    found = [made[0], *(made[1] if isinstance(made[1], tuple) else made[1:])]
    sizes = dict(zip(signature.axes, (3, 7), strict=True))
    assert [tuple(tensor.shape) for tensor in found] == [spec.shape(sizes) for spec in signature.outputs.leaves]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3", "densenet121"])
def test_what_is_said_of_inner_outputs_holds_at_sizes_that_were_not_probed(name):
    with torch.device("meta"):
        model = timm.create_model(name).eval()
    signature, generator = aa.capture(model, inner=True), random.Random(3)
    maps = {output.module: output.spec for output in signature.inner if len(output.spec.dims) == 4 and not output.call}
    found = {}
    for module in maps:
        model.get_submodule(module).register_forward_hook(
            lambda _, args, returned, module=module: found.update({module: tuple(returned.shape)})
        )
    for _ in range(8):
        sizes = {"B": 2, "H": generator.randint(75, 700), "W": generator.randint(75, 700)}
        model(torch.empty(2, 3, sizes["H"], sizes["W"], device="meta"))
        assert {module: spec.shape(sizes) for module, spec in maps.items()} == found


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nn.ConvTranspose1d, (1, 4, 16)), (nn.ConvTranspose2d, (1, 4, 16, 16)), (nn.ConvTranspose3d, (1, 4, 8, 8, 8))],
)
def test_transposed_convolutions_of_any_rank_count_as_layers(kind, shape):
    block = nn.Sequential(kind(4, 4, 2, stride=2), nn.ReLU(), kind(4, 4, 2, stride=2))
    found = aa.capture(nn.Sequential(block), torch.zeros(shape), inner=True)
    assert {one.module: one.layers for one in found.inner}["0"] == 2
