"""Adapted modules leave autoadapt: folders, source, torch.export, ONNX and TorchScript, at sizes not exported at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from exported_models import ALLOW, KINDS, SMALL_VIT, exported
from point_clouds import READ, PointNet, PointTransformer, cloud
from saved_models import LEVELS, Made, contract, images
from small_models import Pair, Plain, Pyramid, Record, Wrapped, image
from standalone_files import standalone
from torch import nn

import autoadapt as aa
from autoadapt.contracts.trees import flatten
from autoadapt.saving.exporting import size_ranges

BY_TORCH_EXPORT = ("patches of 14", "points")
IN_ONNXRUNTIME = ("convolutions", "tokens at one image size", "points")
"""A part of the kinds, for time; `python -m benchmarks.export` takes all of them through everything."""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_models_come_back_from_a_folder_bit_for_bit(kind, tmp_path):
    one = exported(kind)
    aa.save(one.net, tmp_path)
    assert one.same(aa.restore(tmp_path, allow=ALLOW))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_models_as_source_give_the_same_bits_with_the_same_state_dict(kind, tmp_path):
    one = exported(kind)
    assert one.same(standalone(one.net, one.new, tmp_path / "net.py"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", BY_TORCH_EXPORT)
def test_programs_of_torch_export_give_the_same_bits_at_any_size(kind, tmp_path):
    one = exported(kind)
    report = aa.export(one.net, tmp_path / "net.pt2", one.inputs)
    assert [run.difference for run in report.compared] == [0.0, 0.0]
    program = torch.export.load(tmp_path / "net.pt2").module()
    for inputs in other_inputs(kind):
        assert same(one.net, program, inputs)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_models_as_torchscript_hold_at_any_size(kind, tmp_path):
    one = exported(kind)
    aa.export(one.net, tmp_path / "net.ts", one.inputs)
    script = load_script(tmp_path / "net.ts")
    for inputs in other_inputs(kind):
        assert same(one.net, script, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", IN_ONNXRUNTIME)
def test_onnx_files_hold_in_onnxruntime_at_sizes_they_were_not_exported_at(kind, tmp_path):
    one = exported(kind)
    report = aa.export(one.net, tmp_path / "net.onnx", one.inputs)
    assert len(report.compared) == 2
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for inputs in other_inputs(kind):
        found = session.run(None, {session.get_inputs()[0].name: inputs[0].numpy()})
        with torch.no_grad():
            expected = flatten(one.net(*inputs))[1]
        assert len(found) == len(expected)
        for left, right in zip(expected, found, strict=True):
            assert left.shape == right.shape
            np.testing.assert_allclose(left.numpy(), right, atol=1e-4, rtol=1e-4 * float(left.abs().max()))


def load_script(path: Path) -> nn.Module:
    with pytest.warns(FutureWarning, match="deprecated"):
        return torch.jit.load(path)


def other_inputs(kind):
    """Two calls at sizes that nothing was captured or exported at; the second divides by no stride."""
    if kind == "points":
        return [(cloud(1, 80),), (cloud(3, 97),)]
    channels = 1 if kind == "grey images" else 3
    return [(images(channels, 96, 224)[:1],), (torch.cat([images(channels, 97, 131)] * 2)[:3],)]


def same(net: nn.Module, other: nn.Module, inputs) -> bool:
    with torch.no_grad():
        expected, found = flatten(net(*inputs))[1], flatten(other(*inputs))[1]
    return len(expected) == len(found) and all(map(torch.equal, expected, found))


@pytest.mark.slow
def test_the_report_states_the_sizes_and_why_they_are_no_smaller(tmp_path):
    one = exported("an ordered dict, as of a feature pyramid")
    text = str(aa.export(one.net, tmp_path / "net.ts", one.inputs)).replace(str(tmp_path), "runs")
    title, _, rest = text.partition("runs/net.ts\n")
    lines = [title, *rest.splitlines()]
    contract = "in the contract of BackboneWithFPN (ordered dict of 5)"
    assert " ".join(title.split()) == f"timm:convnext_atto (FeatureListNet) {contract} ->"
    assert lines[1].startswith(" TorchScript, ")
    assert lines[1].endswith("MB, exported at B=2 H=65 W=96")
    assert lines[2:] == [
        " B  from 1",
        " H  from 65  below it ceil(H/64) of `pool` is 1, and an axis of 1 never varies",
        " W  from 65  below it ceil(W/64) of `pool` is 1, and an axis of 1 never varies",
        " run in TorchScript beside the module",
        "  B=1 H=65 W=65   differs by 0.0e+00",
        "  B=3 H=91 W=145  differs by 0.0e+00",
    ]
    report = aa.export(small(), tmp_path / "net.pt2")
    assert aa.Exported.model_validate_json(report.model_dump_json()) == report


def small(new: nn.Module | None = None) -> aa.AdaptedModule:
    return aa.adapt(new or Pyramid(4, 8), like=Pyramid(6, 9), inputs=image()).eval()


@pytest.mark.slow
def test_sizes_in_steps_stay_in_steps(tmp_path):
    vit = {"img_size": 98, "dynamic_img_size": True, **SMALL_VIT}
    new, old = (aa.load("timm:vit_small_patch14_dinov2", features_only=only, **vit) for only in (False, True))
    net = aa.adapt(new.eval(), like=old, inputs=images(3, 98, 126)).eval()
    ranges = size_ranges(net.plan)
    assert str(ranges["H"]) == "multiples of 14 from 28"
    assert 42 in ranges["H"]
    assert 43 not in ranges["H"]
    height = aa.dynamic_shapes(net)["x"][2]
    assert (height.fn(3), height.root.min, height.root.__name__) == (42, 2, "H_units")
    report = aa.export(net, tmp_path / "net.pt2")
    assert report.compared[1].sizes == {"B": 3, "H": 140, "W": 182}
    program = torch.export.load(tmp_path / "net.pt2").module()
    assert same(net, program, (images(3, 56, 70),))
    with pytest.raises(RuntimeError, match="Eq\\(Mod"):
        program(images(3, 57, 70))


@pytest.mark.slow
def test_the_only_legal_size_is_exported_as_that_size(tmp_path):
    vit = aa.load("timm:vit_tiny_patch16_224", features_only=True, **SMALL_VIT).eval()
    net = aa.adapt(aa.load("timm:resnet10t", features_only=True), like=vit, inputs=images(3, 224, 224)).eval()
    report = aa.export(net, tmp_path / "net.pt2")
    assert [str(one) for one in report.ranges] == ["from 1", "224 only", "224 only"]
    assert [run.sizes["B"] for run in report.compared] == [1, 3]


@pytest.mark.slow
def test_axes_can_be_fixed_and_narrowed(tmp_path):
    report = aa.export(small(), tmp_path / "net.onnx", ranges={"H": 40, "W": (20, 100)})
    assert [str(one) for one in report.ranges] == ["from 1", "40 only", "20 to 100"]
    shape = onnxruntime.InferenceSession(tmp_path / "net.onnx").get_inputs()[0].shape
    assert shape == ["B", 3, 40, "W"]


def test_sizes_that_cannot_hold_are_refused_with_those_that_can(tmp_path):
    net = aa.adapt(Pyramid(4, 8, 9), like=Pyramid(4, 8, 9), inputs=image()).eval()
    with pytest.raises(aa.ExportError) as caught:
        aa.export(net, tmp_path / "net.pt2", ranges={"h": 40, "W": (2, 30)})
    assert str(caught.value).splitlines()[1:] == [
        "ranges['h']",
        "  expected  one of B, H, W",
        "  found     h",
        "  try       ranges={'H': ...}",
        "ranges['W']",
        "  expected  from 11 (the smallest that was seen to run)",
        "  found     2 to 30",
        "  try       ranges={'W': (11, 30)}",
    ]
    assert not list(tmp_path.iterdir())


class Distances(nn.Module):
    """How far points are from the first four, by an operation that has two ways and, for few, no word in ONNX."""

    def __init__(self, count: int | None = None) -> None:
        super().__init__()
        self.mlp = nn.Conv1d(3, 4, 1)
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        far = torch.cdist(x[:, :4], x[:, : self.count])
        return self.mlp(x.transpose(1, 2)) + far.mean((1, 2), keepdim=True)


def points_net(count: int | None = None) -> aa.AdaptedModule:
    like = aa.Signature.parse("f32[B, 7, N]", inputs="f32[B, N, 3]")
    return aa.adapt(Distances(count), like=like, inputs=torch.randn(2, 64, 3)).eval()


def test_sizes_that_torch_takes_another_path_for_are_left_out(tmp_path):
    report = aa.export(points_net(), tmp_path / "net.pt2")
    assert [(one.axis, str(one), one.why) for one in report.ranges] == [
        ("B", "from 1", ""),
        ("N", "from 26", "torch takes another path for others"),
    ]


def test_sizes_that_torch_takes_another_path_for_are_refused_where_they_were_asked_for(tmp_path):
    with pytest.raises(aa.ExportError) as caught:
        aa.export(points_net(), tmp_path / "net.pt2", ranges={"N": (20, None)})
    fault = caught.value.mismatches[0]
    assert fault.where == "module"
    assert fault.expected == "a program for B from 1, N from 20"
    assert "Not all values of N" in fault.found
    assert fault.remedy == "ranges={'N': (26, None)}"


@pytest.mark.slow
def test_an_operation_without_a_word_in_onnx_is_named(tmp_path):
    with pytest.raises(aa.ExportError, match="does not go through ONNX") as caught:
        aa.export(points_net(8), tmp_path / "net.onnx")
    fault = caught.value.mismatches[0]
    assert "No ONNX function found for <OpOverload(op='aten._cdist_forward'" in fault.found
    assert (fault.why, fault.remedy) == ("torch.export takes it; ONNX has no word for it", 'aa.export(net, "net.pt2")')


@pytest.mark.slow
def test_a_backbone_that_looks_at_values_is_blamed(tmp_path, capfd):
    net = aa.adapt(PointTransformer(), like=PointNet(), inputs=(cloud(),), outputs=READ).eval()
    with pytest.raises(aa.ExportError, match=r"PointNet does not go through torch\.export") as caught:
        aa.export(net, tmp_path / "net.pt2", (cloud(),))
    fault = caught.value.mismatches[0]
    assert (fault.where, fault.why, fault.remedy) == ("backbone", "the backbone alone fails as well", "")
    assert "data-dependent" in fault.found
    assert capfd.readouterr() == ("", "")  # torch prints whole graphs
    assert not list(tmp_path.iterdir())


class Parity(Pyramid):
    """Does something else at heights that divide by three."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [one * (2 if x.shape[2] % 3 else 1) for one in super().forward(x)]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["onnx", "ts"])
def test_programs_that_are_silently_wrong_at_other_sizes_are_not_written(ending, tmp_path):
    (tmp_path / f"net.{ending}").write_text("as it was")
    with pytest.raises(aa.ExportError, match="returns something else") as caught:
        aa.export(small(Parity(4, 8)), tmp_path / f"net.{ending}")
    fault = caught.value.mismatches[0]
    assert fault.where == "B=3 H=63 W=99"
    assert fault.found.startswith("output ")
    assert "ranges={'B': 2, 'H': 40, 'W': 56}" in fault.remedy
    assert ("a trace keeps the numbers" in fault.why) == (ending == "ts")
    assert (tmp_path / f"net.{ending}").read_text() == "as it was"
    assert len(list(tmp_path.iterdir())) == 1
    report = aa.export(small(Parity(4, 8)), tmp_path / f"net.{ending}", ranges={"B": 2, "H": 40, "W": 56})
    assert [run.sizes for run in report.compared] == [{"B": 2, "H": 40, "W": 56}]


@pytest.mark.slow
def test_what_differs_by_rounding_alone_is_told_apart(tmp_path):
    with pytest.raises(aa.ExportError) as caught:
        aa.export(small(), tmp_path / "net.onnx", tolerance=1e-8)
    fault = caught.value.mismatches[-1]
    assert fault.why == "both round, each in its own order"
    assert fault.remedy.startswith("tolerance=")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pt2", "onnx", "ts"])
def test_an_argument_that_is_filled_in_cannot_be_exported_and_another_call_can(ending, tmp_path):
    new, given = PointTransformer(together=True), (cloud(), {})
    net = aa.adapt(new, like=PointNet(), inputs=given, outputs=READ).eval()
    with pytest.raises(aa.ExportError, match="fill in an argument") as caught:
        aa.export(net, tmp_path / f"net.{ending}", given)
    assert caught.value.mismatches[0].where == "end_points"
    assert caught.value.mismatches[0].remedy.startswith("adapt(..., inputs=x)")


@pytest.mark.slow
def test_classes_that_torch_does_not_know_come_with_the_call_that_makes_them_known(tmp_path):
    net = aa.adapt(Pyramid(6, 12), like=Wrapped(Record), inputs=image()).eval()
    with pytest.raises(aa.ExportError) as caught:
        aa.export(net, tmp_path / "net.onnx")
    assert caught.value.mismatches[0].remedy == "torch.export.register_dataclass(small_models.Record)"
    with pytest.raises(aa.ExportError) as caught:
        aa.export(net, tmp_path / "net.ts")
    assert caught.value.mismatches[0].why == "torch.jit.trace knows tensors in tuples, lists and dicts alone"
    named = aa.adapt(Pyramid(6, 12), like=Wrapped(Pair), inputs=image()).eval()
    aa.export(named, tmp_path / "net.ts")
    with pytest.raises(aa.ExportError) as caught:
        aa.export(named, tmp_path / "net.pt2")
    eval(caught.value.mismatches[0].remedy, {"torch": torch, "small_models": __import__("small_models")})
    aa.export(named, tmp_path / "net.pt2")
    assert type(torch.export.load(tmp_path / "net.pt2").module()(image())) is Pair


def test_the_ending_says_the_format(tmp_path):
    with pytest.raises(aa.ExportError) as caught:
        aa.export(small(), tmp_path / "net.zip")
    fault = caught.value.mismatches[0]
    assert (fault.expected, fault.found) == (".onnx, .pt2, .pt, .ts", ".zip")
    assert fault.remedy == f'"{tmp_path / "net.onnx"}"'


@pytest.mark.slow
def test_onnx_files_name_what_goes_in_and_out(tmp_path):
    net = aa.adapt(Plain(), like=contract({"p3": "f32[B, 5, ceil(H/4), ceil(W/4)]"}), inputs=image()).eval()
    report = aa.export(net, tmp_path / "net.onnx", opset_version=18)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert [(one.name, one.shape) for one in session.get_inputs()] == [("x", ["B", 3, "H", "W"])]
    assert [one.name for one in session.get_outputs()] == ["p3"]
    assert report.file_bytes == (tmp_path / "net.onnx").stat().st_size


def test_shapes_serve_the_exporters_of_torch_directly(tmp_path):
    net, x = small(), image()
    shapes = aa.dynamic_shapes(net, {"H": (20, 200)})
    assert {axis: (dim.__name__, dim.min) for axis, dim in shapes["x"].items()} == {
        0: ("B", 1),
        2: ("H", 20),
        3: ("W", 11),
    }
    assert shapes["x"][2].max == 200
    options = {"dynamic_shapes": shapes, "prefer_deferred_runtime_asserts_over_guards": True}
    assert same(net, torch.export.export(net, (x,), **options).module(), (image(3, 33, 57),))


def test_exporting_leaves_the_module_as_it_was(tmp_path):
    net = small().train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    aa.export(net, tmp_path / "net.ts")
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert Made(net.eval(), net, (image(),)).same(load_script(tmp_path / "net.ts"))


def test_a_path_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(aa.ExportError, match="path cannot be written"):
        aa.export(small(), Path(tmp_path / "file" / "net.ts"))


@pytest.fixture(scope="module")
def windowed():
    """A small MaxViT, which takes multiples of 224 alone and pads by what the size leaves over."""
    sizes = {"depths": (1, 1, 1, 1), "embed_dim": (32,) * 4, "block_type": ("M",) * 4, "stem_width": 8}
    model = timm.create_model("maxvit_tiny_tf_224", **sizes)
    return aa.adapt(model, like=contract(LEVELS[1:]), inputs=images()).eval()


@pytest.mark.slow
def test_sizes_in_coarse_steps_are_numbers_while_tracing_and_a_program_holds_within_one(windowed, tmp_path):
    net = windowed
    assert net.plan.coarse_steps == {"H": 224, "W": 224}
    x = image(2, 97, 131)
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(net, (x,), dynamic_shapes=(free,)).module()
    for other in (x, image(3, 200, 150)):
        assert same(net, program, (other,))
    with pytest.raises(AssertionError, match="224"):
        program(image(1, 225, 97))
    report = aa.export(net, tmp_path / "net.pt2", ranges={"H": (225, 448)})
    assert {one.axis: (one.low, one.high) for one in report.ranges}["H"] == (225, 448)
    assert {one.axis: one.high for one in report.ranges}["W"] == 224
    assert "path for others" in str(report)


@pytest.mark.slow
def test_sizes_in_coarse_steps_pass_the_thorough_checks_in_more_than_one_step(windowed):
    sizes = [{"H": 97, "W": 131}, {"H": 224, "W": 225}]
    report = windowed.verify(sizes=sizes, batches=(1,), thorough=True)
    assert report.passed, report
    assert report["export"].outcome == report["compile"].outcome == "passed"
    assert report["export"].detail.endswith("within a step of 224")


class Finder(nn.Module):
    """Returns as many rows as there are high cells."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, x):
        features = self.backbone(x).mean(1)
        return {"boxes": features[features > features.mean()][:, None].expand(-1, 4)}


def test_a_model_that_finds_boxes_is_refused_with_the_part_that_can_be_exported(tmp_path):
    model = aa.swap(Finder(), "backbone", nn.Conv2d(3, 6, 4, stride=4), inputs=torch.rand(1, 3, 16, 16))
    with pytest.raises(aa.ExportError, match="what Finder returns depends on values") as caught:
        aa.export(model, tmp_path / "finder.onnx", inputs=torch.rand(1, 3, 16, 16))
    (fault,) = caught.value.mismatches
    assert "boxes" in fault.found
    assert 'aa.export(model.get_submodule("backbone"), "backbone.onnx")' in fault.remedy
    assert not list(tmp_path.iterdir())
