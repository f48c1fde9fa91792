"""Folders and modules that are not as they should be are refused by name, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from plan_kinds import texts
from saved_models import made
from small_models import Plain, Pyramid, image
from small_saved import ALLOW, loaded, offline, small  # noqa: F401 (a fixture)
from torch import nn

import autoadapt as aa
from autoadapt.files import writing as files
from autoadapt.saving.folder_configs import checksum


def edit(folder: Path, change, *, seal: bool = True) -> None:
    """Change a saved config; the checksum is made anew, as somebody would who wants it to be read."""
    content = json.loads((folder / "config.json").read_text())
    content.pop("checksum")
    old = checksum(content)
    change(content)
    content["checksum"] = checksum(content) if seal else old
    (folder / "config.json").write_text(json.dumps(content))


def refused(folder: Path, **options) -> aa.SavingError:
    """The error of restoring a folder."""
    with pytest.raises(aa.SavingError) as caught:
        aa.restore(folder, **{"new": Plain(), **options})
    assert all(fault.where and fault.expected and fault.found for fault in caught.value.mismatches)
    assert caught.value.mismatches
    return caught.value


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "net"
    aa.save(small(), folder)
    return folder


@pytest.fixture
def saved(kept: Path, tmp_path: Path) -> Path:
    """A folder with a small module in it."""
    return Path(shutil.copytree(kept, tmp_path / "net"))


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


@pytest.mark.sampled(3)
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
    assert "does not fit Conv2d" in str(refused(saved, new=nn.Conv2d(3, 5, 1)))


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


@pytest.mark.slow
def test_a_python_path_is_not_imported_unless_it_is_allowed(tmp_path):
    aa.save(made("points").net, tmp_path)
    error = refused(tmp_path, new=None)
    assert error.mismatches[0].remedy.startswith('allow=["point_clouds"]')
    aa.restore(tmp_path, allow=["point_clouds"])


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["forward", "_modules", "backbone", "plan", "training", "a b"])
def test_an_attribute_that_would_replace_a_part_is_refused(name, saved):
    fact = {"form": "value", "value": {"tree": "constant", "value": 1}}
    edit(saved, lambda content: content["facts"].update({name: fact}))
    assert "cannot be put on a module" in str(refused(saved))


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


class FullDiskError(OSError):
    """No space is left."""


@pytest.mark.sampled(1)
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


def test_what_was_adapted_twice_is_asked_for_by_its_name(tmp_path):
    x = torch.zeros(1, 3, 16, 16)
    once = aa.adapt(nn.Conv2d(3, 5, 2, 2), like=nn.Conv2d(3, 8, 2, 2), inputs=x)
    twice = aa.adapt(once, like=nn.Conv2d(3, 4, 4, 4), inputs=x)
    aa.save(twice, tmp_path)
    with pytest.raises(aa.SavingError) as caught:
        aa.restore(tmp_path)
    assert "expected  the module that was adapted, Conv2d, adapted\n" in str(caught.value)
    assert str(caught.value).endswith(f'aa.restore("{tmp_path}", new=backbone)')
    assert torch.equal(aa.restore(tmp_path, new=once)(x), twice(x))
