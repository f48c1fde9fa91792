"""A saved module comes back bit for bit, from data alone; anything that is not as it was saved is refused by name."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from plan_kinds import KINDS as PLAN_KINDS, adapted, texts
from saved_models import KINDS, Made, contract, images, made, train_a_step
from small_models import Pair, Plain, Pyramid, Record, Wrapped, image
from torch import nn

import autoadapt as aa
from autoadapt.adapting.building import own_attributes
from autoadapt.files import writing as files
from autoadapt.saving.folder_configs import checksum
from autoadapt.saving.module_states import all_tensors

ALLOW = ["point_clouds", "small_models"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def small(**options) -> aa.AdaptedModule:
    """A small module in eval mode, whose backbone autoadapt did not load."""
    return aa.adapt(Plain(), like=texts({"c4": "f32[B, 5, ceil(H/4), ceil(W/4)]"}), inputs=image(), **options).eval()


def loaded() -> aa.AdaptedModule:
    """A module whose backbone is made by its name."""
    new = aa.load("small_models:Plain", allow=ALLOW)
    return aa.adapt(new, like=texts({"c4": "f32[B, 5, ceil(H/4), ceil(W/4)]"}), inputs=image()).eval()


def edit(folder: Path, change, *, seal: bool = True) -> None:
    """Change a saved config; the checksum is made anew, as somebody would who wants it to be read."""
    content = json.loads((folder / "config.json").read_text())
    content.pop("checksum")
    old = checksum(content)
    change(content)
    content["checksum"] = checksum(content) if seal else old
    (folder / "config.json").write_text(json.dumps(content))


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


@pytest.mark.parametrize("kind", PLAN_KINDS)
def test_every_kind_of_plan_survives(kind, tmp_path):
    one = PLAN_KINDS[kind]()
    net = adapted(one).eval()
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
    assert {p.data_ptr() for p in shared.backbone.parameters()} == {p.data_ptr() for p in new.parameters()}


def test_a_module_without_weights_yet_takes_those_of_the_file(tmp_path):
    net = small()
    aa.save(net, tmp_path)
    with torch.device("meta"):
        new = Plain()
    again = aa.restore(tmp_path, new=new)
    assert torch.equal(again(image())["c4"], net(image())["c4"])


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
    for wrapped in (torch.compile(net, backend="eager"), nn.DataParallel(net)):
        aa.save(wrapped, tmp_path)
        assert torch.equal(aa.restore(tmp_path, new=Plain())(image())["c4"], net(image())["c4"])


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    aa.save(small(), tmp_path)

    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    aa.restore(tmp_path, new=Plain())


def test_a_report_says_what_was_written_and_what_was_not(tmp_path):
    net = loaded()
    net.owner, net.out_channels = object(), [5]
    net.register_forward_hook(lambda *_: None)
    net.borrow({"describe": repr})
    report = aa.save(net, tmp_path / "net", adapters_only=True)
    text = str(report).replace(str(tmp_path), "runs")
    weights, config = ((tmp_path / "net" / name).stat().st_size for name in ("model.safetensors", "config.json"))
    assert text.splitlines() == [
        "small_models:Plain (Plain) in the contract of module (dict of 1)  ->  runs/net",
        f" model.safetensors    {weights}B  the adapters alone: 2 tensors, 65 parameters",
        f" config.json        {config / 1000:.2f}kB  plan, signature, versions, modes",
        ' restore  aa.restore("runs/net", new=aa.load("small_models:Plain"))',
        " remark  not saved: owner, describe() (no plain values)",
        " remark  not saved: hooks of the module",
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


# What is refused


def refused(folder: Path, **options) -> aa.SavingError:
    """The error of restoring a folder."""
    with pytest.raises(aa.SavingError) as caught:
        aa.restore(folder, **{"new": Plain(), **options})
    assert all(fault.where and fault.expected and fault.found for fault in caught.value.mismatches)
    assert caught.value.mismatches
    return caught.value


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a small module in it."""
    aa.save(small(), tmp_path / "net")
    return tmp_path / "net"


def test_a_folder_without_a_config_is_refused_and_what_is_near_is_named(saved):
    error = refused(saved.parent)
    assert str(error.mismatches[0].where).endswith("config.json")
    assert f'aa.restore("{saved}")' in error.mismatches[0].remedy
    assert "nothing is saved in" in str(refused(saved / "none"))


def test_a_damaged_config_is_refused(saved):
    path = saved / "config.json"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in str(refused(saved))
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in str(refused(saved))
    path.write_text("[1, 2]")
    assert "is no config of autoadapt" in str(refused(saved))


def test_a_config_that_was_changed_is_refused(saved):
    def cut(content):
        content["plan"]["cut"] = ["body"]

    edit(saved, cut, seal=False)
    error = refused(saved)
    assert "was changed after it was saved" in str(error)
    assert "aa.build(new, plan)" in error.mismatches[0].why


VERSIONS = {
    "a newer schema": lambda content: content.update(schema_version=2),
    "a newer autoadapt": lambda content: content["versions"].update(autoadapt="99.0"),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_other_versions_are_refused(version, saved):
    edit(saved, VERSIONS[version])
    error = refused(saved)
    assert "is of another version of autoadapt" in str(error)
    assert error.mismatches[0].remedy == "pip install -U autoadapt"


def test_an_older_autoadapt_is_not_refused(saved):
    edit(saved, lambda content: content["versions"].update(autoadapt="0.0.9"))
    aa.restore(saved, new=Plain())


def test_another_format_is_refused(saved):
    edit(saved, lambda content: content.update(format="resnet"))
    assert "is no config of autoadapt" in str(refused(saved))


MALFORMED = {
    "a field that is not known": lambda content: content.update(trust_remote_code=True),
    "a field that is missing": lambda content: content.pop("plan"),
    "another file of weights": lambda content: content["weights"].update(file="../other.safetensors"),
    "a dim that is none": lambda content: content["plan"]["target"]["outputs"]["leaves"][0]["dims"].append("H +"),
    "a step that is none": lambda content: content["plan"]["routes"][0]["steps"].append({"op": "eval"}),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_configs_are_refused(fault, saved):
    edit(saved, MALFORMED[fault])
    assert "is malformed" in str(refused(saved))


def test_weights_that_are_missing_cut_short_or_others_are_refused(saved):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert "is not the file that was saved with this config" in str(refused(saved))
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "is not the file that was saved with this config" in str(refused(saved))
    path.unlink()
    assert "no such file" in str(refused(saved))


def test_tensors_that_are_missing_or_too_many_are_refused_by_name(saved):
    from safetensors.torch import load_file, save_file

    tensors = load_file(saved / "model.safetensors")
    tensors["backbone.extra.weight"] = tensors.pop("backbone.body.stages.0.0.weight")
    save_file(tensors, saved / "model.safetensors")
    edit(saved, lambda content: content["weights"].update(sha256=files.file_hash(saved / "model.safetensors")))
    error = refused(saved)
    assert {fault.where for fault in error.mismatches} == {"backbone.extra.weight", "backbone.body.stages.0.0.weight"}
    assert "do not fit the module, in 2 places" in str(error)


def test_another_backbone_is_refused_by_the_names_that_do_not_fit(saved):
    class Wider(Plain):
        def __init__(self):
            super().__init__()
            self.body = Pyramid(6, 13, 20)

    error = refused(saved, new=Wider())
    assert "backbone.body.stages.1.0.weight" in [fault.where for fault in error.mismatches]
    assert "do not fit" in str(refused(saved, new=nn.Conv2d(3, 5, 1)))


def test_a_backbone_that_works_otherwise_is_refused_by_its_outputs(saved):
    class Otherwise(Plain):
        def forward(self, x):
            return super().forward(-x)

    error = refused(saved, new=Otherwise())
    assert "what was restored from" in str(error)
    assert error.mismatches[0].where == "output c4"
    assert "of their scale" in error.mismatches[0].found
    aa.restore(saved, new=Otherwise(), strict=False)


def test_the_backbone_must_be_given_where_the_folder_does_not_say_it(saved, tmp_path):
    error = refused(saved, new=None)
    assert error.mismatches[0].expected == "the module that was adapted, a small_models:Plain"
    assert error.mismatches[0].remedy == f'aa.restore("{saved}", new=Plain(...))'
    one = made("vit with taps, at one size")
    aa.save(one.net, tmp_path / "vit", adapters_only=True)
    error = refused(tmp_path / "vit", new=None)
    assert error.mismatches[0].why == "the adapters alone are saved"
    assert 'new=aa.load("timm:vit_tiny_patch16_224", depth=3)' in error.mismatches[0].remedy


def test_adapters_are_refused_on_a_backbone_of_other_weights(tmp_path):
    net = small()
    aa.save(net, tmp_path, adapters_only=True)
    other = Plain().eval()
    error = refused(tmp_path, new=other)
    assert "the backbone has other weights than those that the adapters were fitted to" in str(error)
    assert "strict=False" in error.mismatches[0].remedy
    again = aa.restore(tmp_path, new=other, strict=False)
    assert torch.equal(again.adapters.c4.project.weight, net.adapters.c4.project.weight)


def test_one_statistic_of_a_norm_is_enough_to_tell_another_backbone(tmp_path):
    new = Plain().eval()
    net = aa.adapt(new, like=texts({"c4": "f32[B, 5, ceil(H/4), ceil(W/4)]"}), inputs=image())
    aa.save(net, tmp_path, adapters_only=True)
    aa.restore(tmp_path, new=new)
    new.body.stages[0][1].running_mean[0] += 1e-3
    refused(tmp_path, new=new)


# What a file may not do


def test_a_python_path_is_not_imported_unless_it_is_allowed(tmp_path):
    aa.save(made("points").net, tmp_path)
    error = refused(tmp_path, new=None)
    assert error.mismatches[0].remedy.startswith('allow=["point_clouds"]')
    aa.restore(tmp_path, allow=["point_clouds"])


def test_a_source_that_was_changed_runs_nothing(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    aa.save(made("timm levels").net, tmp_path)
    edit(tmp_path, lambda content: content["source"].update(name="os:system"))
    assert "os" in str(refused(tmp_path, new=None))
    assert ran == []


def _container(content: dict, kind: str, name: str) -> None:
    """Have the answer of a plan be of another class, with its one tensor at the name that its route has."""
    (route,) = content["plan"]["routes"]
    slot = {"tree": "tensor"}
    tree = {"tree": "container", "kind": kind, "type": name, "keys": [route["target"]], "children": [slot]}
    content["plan"]["target"]["outputs"]["tree"] = tree


@pytest.mark.parametrize("kind", ["dataclass", "named_tuple", "model_output", "mapping", "sequence"])
def test_an_output_of_a_class_that_is_no_container_is_refused_even_if_allowed(kind, saved):
    def change(content):
        _container(content, kind, "subprocess:Popen")

    edit(saved, change)
    assert 'allow=["subprocess"]' in str(refused(saved))
    assert "another class" in str(refused(saved, allow=["subprocess"]))


def test_a_dataclass_of_a_trusted_package_is_refused_too(saved):
    def change(content):
        _container(content, "dataclass", "transformers.training_args:TrainingArguments")

    edit(saved, change)
    assert 'allow=["transformers"]' in str(refused(saved))


def test_a_name_that_would_be_code_is_refused(saved, monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)

    def change(content):
        content["plan"]["target"]["inputs"]["tree"]["keys"] = ["x=__import__('os').system('touch run')"]
        for route in content["plan"]["inputs"]:
            route["target"] = "x=__import__('os').system('touch run')"

    edit(saved, change)
    assert "a name that Python does not allow" in str(refused(saved))
    assert ran == []


def test_a_plan_for_another_module_is_refused(tmp_path):
    one = made("torchvision classifier with taps")
    aa.save(one.net, tmp_path)

    def tap(content):
        next(iter(content["plan"]["taps"].values()))["module"] = "features.99"

    edit(tmp_path, tap)
    error = refused(tmp_path, new=one.new)
    assert "features.99" in str(error)
    aa.save(one.net, tmp_path)
    edit(tmp_path, lambda content: content["plan"].update(cut=["classifier.99"]))
    assert "does not fit" in str(refused(tmp_path, new=one.new))


def test_steps_that_do_not_follow_from_one_another_are_refused_though_nothing_was_noted(tmp_path):
    aa.save(small(), tmp_path, check=False)

    def widen(content):
        content["plan"]["routes"][0]["specs"][0]["dims"][1] = "13"

    edit(tmp_path, widen)
    assert "the plan of" in str(refused(tmp_path))


def test_a_tap_elsewhere_is_refused_by_its_outputs(tmp_path):
    one = made("vit with taps, at one size")
    aa.save(one.net, tmp_path)

    def tap(content):
        next(iter(content["plan"]["taps"].values()))["module"] = "blocks.0.norm1"

    edit(tmp_path, tap)
    assert "is not what was saved" in str(refused(tmp_path, new=None))


@pytest.mark.parametrize("name", ["forward", "_modules", "backbone", "plan", "training", "a b"])
def test_an_attribute_that_would_replace_a_part_is_refused(name, saved):
    fact = {"form": "value", "value": {"tree": "constant", "value": 1}}
    edit(saved, lambda content: content["facts"].update({name: fact}))
    assert "cannot be put on a module" in str(refused(saved))


# What cannot be saved


def test_only_adapted_modules_and_models_with_one_inside_are_saved(tmp_path):
    with pytest.raises(aa.SavingError, match=r"safetensors\.torch\.save_model"):
        aa.save(nn.Conv2d(3, 3, 1), tmp_path)
    with pytest.raises(aa.SavingError, match="of type dict"):
        aa.save({}, tmp_path)
    assert list(tmp_path.iterdir()) == []


class Extra(Plain):
    """Has state that is no tensor."""

    def get_extra_state(self):
        return {"counts": [1, 2]}

    def set_extra_state(self, state):
        self.counts = state


def test_state_that_is_no_tensor_and_tensors_without_values_are_refused_by_name(tmp_path):
    like = texts({"c4": "f32[B, 5, ceil(H/4), ceil(W/4)]"})
    with pytest.raises(aa.SavingError) as caught:
        aa.save(aa.adapt(Extra(), like=like, inputs=image()), tmp_path)
    assert [fault.where for fault in caught.value.mismatches] == ["backbone._extra_state"]
    with pytest.raises(aa.SavingError, match="a tensor on the meta device"):
        aa.save(small().to("meta"), tmp_path)


def test_a_number_that_json_has_no_word_for_is_refused(tmp_path):
    class Clipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Pyramid(4)

        def forward(self, x, limit=float("inf")):
            return self.body(x)[0].clamp(max=limit)

    net = aa.adapt(Pyramid(4), like=Clipped(), inputs=(image(), float("inf")))
    with pytest.raises(aa.SavingError, match="cannot be written as JSON"):
        aa.save(net, tmp_path)


def test_a_module_that_does_not_run_on_invented_inputs_is_saved_with_a_remark(tmp_path):
    class Choosy(Plain):
        def forward(self, x):
            if not getattr(self, "eager", True):
                raise RuntimeError("no such images")
            return super().forward(x)

    net = aa.adapt(Choosy(), like=texts({"c4": "f32[B, 5, ceil(H/4), ceil(W/4)]"}), inputs=image())
    net.backbone.eager = False
    report = aa.save(net, tmp_path)
    assert report.remarks[-1].startswith("outputs are not compared when it is restored")
    aa.restore(tmp_path, new=Choosy())


# Files


class FullDiskError(OSError):
    """No space is left."""


@pytest.mark.parametrize("at", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("step", ["write", "replace"])
def test_whatever_fails_the_older_folder_is_whole(step, at, saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    original = {"write": Path.chmod, "replace": Path.replace}[step]

    def fail(path, *args):
        if at in path.name and path.name.endswith(".new"):
            raise FullDiskError(28, "No space left on device")
        return original(path, *args)

    monkeypatch.setattr(Path, "chmod" if step == "write" else "replace", fail)
    with pytest.raises(aa.SavingError, match="what was there is as it was"):
        aa.save(loaded(), saved)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    aa.restore(saved, new=Plain())


def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(aa.SavingError) as caught:
        aa.save(small(), tmp_path / "file" / "net")
    assert caught.value.summary == "folder cannot be written, and nothing was done"
    assert str(tmp_path / "file" / "net") in caught.value.mismatches[0].found


def test_saving_again_replaces_both_files_and_leaves_others_alone(saved):
    (saved / "README.md").write_text("mine")
    net = loaded()
    aa.save(net, saved)
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert torch.equal(aa.restore(saved, allow=ALLOW)(image())["c4"], net(image())["c4"])


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
