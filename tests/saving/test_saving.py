"""A saved module comes back bit for bit, from data alone."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from plan_kinds import KINDS as PLAN_KINDS, example, texts
from saved_models import KINDS, Made, contract, images, made, train_a_step
from small_models import Pair, Plain, Pyramid, Record, Wrapped, image
from small_saved import ALLOW, loaded, offline, small  # noqa: F401 (a fixture)
from torch import nn

import autoadapt as aa
from autoadapt.adapting.building import own_attributes
from autoadapt.saving.module_states import all_tensors


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_module_comes_back_from_its_folder_alone(kind, tmp_path):
    one = made(kind)
    report = aa.save(one.net, tmp_path)
    again = aa.restore(tmp_path, allow=ALLOW)
    assert report.remarks == ()
    assert one.same(again)
    assert again.plan == one.net.plan
    expected, found = all_tensors(one.net), all_tensors(again)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not {t.data_ptr() for t in found.values()} & {t.data_ptr() for t in expected.values() if t.numel()}
    assert {type(value) for value in own_attributes(again).values()} == {
        type(value) for value in own_attributes(one.net).values()
    }


@pytest.mark.parametrize("kind", ["vit with taps, at one size", "points"])
def test_the_adapters_alone_come_back_onto_the_backbone_they_were_fitted_to(kind, tmp_path):
    one = made(kind)
    backbone = copy.deepcopy(one.new)
    held = {name.removeprefix("backbone."): tensor for name, tensor in one.net.state_dict().items()}
    backbone.load_state_dict({name: held.get(name, tensor) for name, tensor in backbone.state_dict().items()})
    report = aa.save(one.net, tmp_path, adapters_only=True)
    size = sum(tensor.nbytes for name, tensor in one.net.state_dict().items() if name.startswith("adapters."))
    assert size < report.weight_bytes < size + 2000
    assert one.same(aa.restore(tmp_path, new=backbone, allow=ALLOW))


def test_adapters_come_back_onto_a_backbone_that_is_made_to_read_other_channels(tmp_path):
    new = aa.load("timm:resnet18", features_only=True).eval()
    net = aa.adapt(new, like=contract(["f32[B, 5, ceil(H/4), ceil(W/4)]"], channels=4), inputs=images(4))
    aa.save(net, tmp_path, adapters_only=True)
    assert torch.equal(aa.restore(tmp_path, new=new)(images(4))[0], net(images(4))[0])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", PLAN_KINDS)
def test_every_kind_of_plan_survives(kind, tmp_path):
    one, net = example(kind)
    aa.save(net, tmp_path)
    inputs = one.inputs if isinstance(one.inputs, tuple) else (one.inputs,)
    assert Made(net, one.new, inputs).same(aa.restore(tmp_path, new=one.new))


def test_modes_frozen_parts_and_attributes_come_back(tmp_path):
    net = loaded().train()
    net.backbone.eval()
    net.backbone.body.stages[0].requires_grad_(False)
    net.backbone.body.stages[1][0].weight.requires_grad_(False)
    net.out_channels, net.sizes = [5], {"c4": (1, 2), 3: None}
    aa.save(net, tmp_path)
    again = aa.restore(tmp_path, allow=ALLOW)
    assert [m.training for m in again.modules()] == [m.training for m in net.modules()]
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in net.parameters()]
    assert (again.out_channels, again.sizes) == ([5], {"c4": (1, 2), 3: None})
    assert not all(p.requires_grad for p in again.parameters())
    net.requires_grad_(False)
    aa.save(net, tmp_path)
    assert not any(p.requires_grad for p in aa.restore(tmp_path, allow=ALLOW).parameters())


def test_what_timm_and_detectron_read_off_a_backbone_comes_back(tmp_path):
    class Old(Pyramid):
        def output_shape(self):
            return {"c2": (4, 2)}

    net = aa.adapt(Pyramid(3, 5), like=Old(4, 8), inputs=image())
    aa.save(net, tmp_path)
    assert aa.restore(tmp_path, new=Pyramid(3, 5)).output_shape() == {"c2": (4, 2)}
    aa.save(made("timm levels").net, tmp_path)
    info = aa.restore(tmp_path).feature_info
    assert info.channels() == [64, 256, 512, 1024, 2048]
    assert info.reduction() == [2, 4, 8, 16, 32]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_are_kept(dtype, tmp_path):
    net = aa.adapt(Plain(), like=texts("f32[B, 5]"), inputs=image(), pairs={"output": "maps.0"}).eval().to(dtype)
    aa.save(net, tmp_path)
    again = aa.restore(tmp_path, new=Plain())
    assert {t.dtype for t in again.parameters()} == {dtype}
    assert torch.equal(again(image().to(dtype)), net(image().to(dtype)))
    net.adapters.float()
    aa.save(net, tmp_path, check=False)
    assert {t.dtype for t in aa.restore(tmp_path, new=Plain()).adapters.parameters()} == {torch.float32}


def test_channels_last_is_kept_since_other_kernels_round_otherwise(tmp_path):
    net = loaded().to(memory_format=torch.channels_last)
    aa.save(net, tmp_path)
    again = aa.restore(tmp_path, allow=ALLOW)
    for name, parameter in net.named_parameters():
        assert again.get_parameter(name).stride() == parameter.stride()


class Tied(nn.Module):
    """Two convolutions of one weight, a buffer that no state dict holds, and a view of another's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.randn(3, 1, 1), persistent=False)
        self.register_buffer("halves", torch.randn(6, 1, 1))
        self.register_buffer("last", self.halves[3:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) + self.table * self.last


def test_tied_weights_views_and_unkept_buffers_come_back(tmp_path):
    net = aa.adapt(Tied(), like=texts("f32[B, 5, H, W]"), inputs=image()).eval()
    report = aa.save(net, tmp_path)
    assert report.tensors == len({t.data_ptr() for t in all_tensors(net).values()})
    new = Tied()
    before = {name: tensor.clone() for name, tensor in all_tensors(new).items()}
    again = aa.restore(tmp_path, new=new)
    assert torch.equal(again(image()), net(image()))
    assert again.backbone.second.weight is again.backbone.first.weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in all_tensors(new).items())


class Caching(nn.Module):
    """Makes a table for the size that it sees, as position embeddings are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if getattr(self, "table", None) is None or self.table.shape != x.shape[2:]:
            self.register_buffer("table", torch.ones(x.shape[2:], device=x.device), persistent=False)
        return self.conv(x) + self.table


def test_a_table_that_a_module_makes_by_itself_need_not_be_there(tmp_path):
    net = aa.adapt(Caching(), like=texts("f32[B, 5, H, W]"), inputs=image()).eval()
    net(image())
    aa.save(net, tmp_path)
    assert torch.equal(aa.restore(tmp_path, new=Caching())(image(1)), net(image(1)))


def test_weights_are_not_shared_with_the_module_that_was_given(tmp_path):
    net = small()
    aa.save(net, tmp_path)
    new = Plain().eval()
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    again = aa.restore(tmp_path, new=new)
    train_a_step(again, (image(),))
    assert all(torch.equal(tensor, before[name]) for name, tensor in new.state_dict().items())
    aa.save(small(), tmp_path, adapters_only=True)
    shared = aa.restore(tmp_path, new=new, strict=False)
    kept = [one for name, one in new.named_parameters() if not name.startswith("body.stages.2")]  # that is cut
    assert [p.data_ptr() for p in shared.backbone.parameters()] == [p.data_ptr() for p in kept]


def test_a_module_without_weights_yet_takes_those_of_the_file(tmp_path):
    net = small()
    aa.save(net, tmp_path)
    with torch.device("meta"):
        new = Plain()
    again = aa.restore(tmp_path, new=new)
    assert torch.equal(again(image())["c4"], net(image())["c4"])


class Twice(nn.Module):
    """[B, 4] -> [B, 4], by one weight twice and a buffer that state dicts leave out."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.full((4,), 2.0), persistent=False)

    def forward(self, x):
        return self.second(torch.relu(self.first(x))) * self.scale


def test_what_is_tied_stays_so_where_a_module_without_weights_yet_takes_those_of_the_file(tmp_path):
    x = torch.randn(3, 4)
    net = aa.adapt(Twice(), like=nn.Linear(4, 8), inputs=x).eval()
    aa.save(net, tmp_path)
    with torch.device("meta"):
        new = Twice()
    again = aa.restore(tmp_path, new=new).eval()
    assert again.backbone.first.weight is again.backbone.second.weight
    assert torch.equal(again(x), net(x))


class Apart(nn.Module):
    """Two convolutions and a recurrent layer, which lists its weights besides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.steps = nn.GRU(3, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.second(self.first(x))
        return self.steps(maps.flatten(2).mT)[0].mT.unflatten(2, maps.shape[2:])


def tied(module: Apart) -> Apart:
    module.second.weight, module.steps.weight_hh_l0 = module.first.weight, module.steps.weight_ih_l0
    return module


@pytest.mark.slow
def test_weights_that_the_caller_tied_are_tied_again_and_the_others_apart(tmp_path):
    for saved, given in ((tied(Apart()), Apart()), (Apart(), tied(Apart()))):
        net = aa.adapt(saved, like=texts("f32[B, 5, H, W]"), inputs=image()).eval()
        aa.save(net, tmp_path, check=False)
        again = aa.restore(tmp_path, new=given).backbone
        assert (again.first.weight is again.second.weight) == (saved.first.weight is saved.second.weight)
        assert (again.steps.weight_ih_l0 is again.steps.weight_hh_l0) == (saved.second.weight is saved.first.weight)
        listed = zip(again.steps._flat_weights_names, again.steps._flat_weights, strict=True)
        assert all(one is getattr(again.steps, name) for name, one in listed)
        assert torch.equal(aa.restore(tmp_path, new=given)(image()), net(image()))


@pytest.mark.parametrize("container", [Pair, Record], ids=lambda cls: cls.__name__)
def test_classes_of_outputs_need_the_callers_word(container, tmp_path):
    net = aa.adapt(Pyramid(6, 12), like=Wrapped(container), inputs=image()).eval()
    aa.save(net, tmp_path)
    with pytest.raises(aa.SavingError) as caught:
        aa.restore(tmp_path, new=Pyramid(6, 12))
    fault = caught.value.mismatches[0]
    assert (fault.where, fault.remedy) == (f"small_models:{container.__name__}", 'allow=["small_models"]')
    again = aa.restore(tmp_path, new=Pyramid(6, 12), allow=["small_models"])
    assert type(again(image())) is container


FRESH = """
import sys, torch, autoadapt as aa
assert not any(name.partition(".")[0] in ("timm", "transformers", "torchvision") for name in sys.modules)
try:
    aa.restore(sys.argv[1])
except aa.SavingError as error:  # nothing is imported because a file names it
    assert error.mismatches[0].remedy == 'allow=["transformers"]', error
net = aa.restore(sys.argv[1], allow=["transformers"])
x = torch.load(sys.argv[2], weights_only=True)
torch.save(list(net(x).feature_maps), sys.argv[3])
"""


@pytest.mark.slow
def test_another_process_restores_it_once_it_is_told_whose_classes_may_be_imported(tmp_path):
    one = made("a class of transformers")
    assert aa.save(one.net, tmp_path / "net").call == f'aa.restore("{tmp_path / "net"}", allow=["transformers"])'
    torch.save(one.inputs[0], tmp_path / "x.pt")
    command = [sys.executable, "-c", FRESH, tmp_path / "net", tmp_path / "x.pt", tmp_path / "y.pt"]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True)
    found = torch.load(tmp_path / "y.pt", weights_only=True)
    assert all(map(torch.equal, found, one.outputs(one.net)[1]))


def test_wrappers_of_training_are_taken_off(tmp_path):
    net = small()
    parallel, averaged = nn.DataParallel(net), torch.optim.swa_utils.AveragedModel(net)
    compiled = torch.compile(net, backend="eager")
    for wrapped in (compiled, parallel, torch.compile(parallel, backend="eager"), averaged, nn.DataParallel(averaged)):
        aa.save(wrapped, tmp_path)
        assert torch.equal(aa.restore(tmp_path, new=Plain())(image())["c4"], net(image())["c4"])


def test_a_module_is_compared_at_the_same_inputs_whatever_the_default_dtype_is(tmp_path):
    net = small()
    aa.save(net, tmp_path)
    torch.set_default_dtype(torch.float64)
    try:
        again = aa.restore(tmp_path, new=Plain())
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again(image())["c4"], net(image())["c4"])


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    aa.save(small(), tmp_path)

    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    aa.restore(tmp_path, new=Plain())


def test_a_report_says_what_was_written_and_what_was_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = loaded()
    net.owner, net.out_channels = object(), [5]
    net.register_forward_hook(lambda *_: None)
    next(net.adapters.children()).project.register_full_backward_hook(lambda *_: None)
    net.borrow({"describe": repr})
    report = aa.save(net, "runs/net", adapters_only=True)
    weights, config = (os.path.getsize(f"runs/net/{name}") for name in ("model.safetensors", "config.json"))
    assert str(report).splitlines() == [
        "small_models:Plain (Plain) in the contract of module (dict of 1)  ->  runs/net",
        f" model.safetensors    {weights}B  the adapters alone: 2 tensors, 65 parameters",
        f" config.json        {config / 1000:.2f}kB  plan, signature, versions, modes",
        ' restore  aa.restore("runs/net", new=aa.load("small_models:Plain"))',
        " remark  not saved: owner, describe() (no plain values)",
        " remark  not saved: hooks of the module",
        " remark  not saved: hooks of adapters.c4.project",
    ]
    assert aa.Saved.model_validate_json(report.model_dump_json()) == report


def test_the_call_that_a_report_shows_is_one_that_restores(tmp_path):
    one = made("points")
    report = aa.save(one.net, tmp_path)
    assert report.call == f'aa.restore("{tmp_path}", allow=["point_clouds"])'
    assert one.same(eval(report.call, {"aa": aa}))
    net = aa.adapt(Pyramid(6, 12), like=Wrapped(Pair), inputs=image()).eval()
    report = aa.save(net, tmp_path)
    assert report.call == f'aa.restore("{tmp_path}", new=backbone, allow=["small_models"])'
    again = eval(report.call, {"aa": aa, "backbone": Pyramid(6, 12)})
    assert torch.equal(again(image()).fine, net(image()).fine)


def test_a_calibrated_module_comes_back(tmp_path):
    old = loaded_pyramid()
    net = aa.adapt(loaded_pyramid(), like=old, inputs=image(), project="always").eval()
    before = net.adapters["0"].project.weight.clone()
    report = aa.calibrate(net, like=old, data=[image(4, 40, 56 + i) for i in range(6)])
    assert not torch.equal(net.adapters["0"].project.weight, before), report
    aa.save(net, tmp_path)
    again = aa.restore(tmp_path, new=loaded_pyramid())
    assert all(map(torch.equal, again(image()), net(image())))


def loaded_pyramid() -> nn.Module:
    torch.manual_seed(3)
    return Pyramid(6, 12).eval()


@pytest.mark.slow
def test_a_backbone_that_no_longer_is_what_its_name_makes_has_to_be_given(tmp_path):
    new = aa.load("timm:resnet18", features_only=True)
    new.layer4[1].conv2 = nn.Sequential(nn.Conv2d(512, 512, 3, padding=1, bias=False), nn.Conv2d(512, 512, 1))
    net = aa.adapt(new, like=contract(["f32[B, 5, ceil(H/32), ceil(W/32)]"]), inputs=images())
    report = aa.save(net, tmp_path)
    expected = (
        "the backbone was changed after aa.load (`layer4.1.conv2.0.weight` is new): restore(..., new=) must be given it"
    )
    assert report.remarks == (expected,)
    with pytest.raises(aa.SavingError, match="does not say all of the backbone"):
        aa.restore(tmp_path)
    x = images()
    assert torch.equal(aa.restore(tmp_path, new=new).eval()(x)[0], net.eval()(x)[0])


def test_folders_of_one_module_are_equal_byte_by_byte_where_the_environment_tells_the_date(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    one = made("vit with taps, at one size")
    for name in ("first", "second"):
        aa.save(one.net, tmp_path / name)
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / n).iterdir()} for n in ("first", "second"))
    assert first == second
    assert b"1970-01-02 00:00" in b"".join(first.values())


def test_saving_changes_nothing_of_the_module_nor_of_the_random_numbers(tmp_path):
    net = loaded().train()
    before = {name: tensor.clone() for name, tensor in all_tensors(net).items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    aa.save(net, tmp_path)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in all_tensors(net).items())
    assert net.training
