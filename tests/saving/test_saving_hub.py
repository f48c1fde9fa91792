"""The mixin of huggingface_hub saves and restores adapted modules; a local folder stands for the hub."""

from __future__ import annotations

import json

import huggingface_hub
import pytest
import torch
from made_once import made_once
from plan_kinds import texts
from saved_models import made
from small_models import Plain, image
from torch import nn

import autoadapt as aa
from autoadapt.saving import hub
from autoadapt.saving.hub import HubModel


@made_once
def small() -> aa.AdaptedModule:
    return aa.adapt(Plain(), like=texts({"c4": "f32[B, 5, ceil(H/4), ceil(W/4)]"}), inputs=image()).eval()


@pytest.mark.slow
def test_a_folder_of_the_mixin_is_one_that_restore_reads_too(tmp_path):
    one = made("timm levels")
    HubModel(one.net).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert one.same(HubModel.from_pretrained(tmp_path).net)
    assert one.same(aa.restore(tmp_path))


def test_the_card_shows_the_plan_and_the_tags(tmp_path):
    net = small()
    HubModel(net).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert str(net.plan) in text
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "autoadapt"
    assert {"autoadapt", "model_hub_mixin"} <= set(card.data.tags)


def test_the_adapters_alone_are_a_repository_of_their_own(tmp_path):
    new = Plain().eval()
    net = aa.adapt(new, like=texts({"c4": "f32[B, 5, ceil(H/4), ceil(W/4)]"}), inputs=image())
    HubModel(net, adapters_only=True).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["weights"]["scope"] == "adapters"
    again = HubModel.from_pretrained(tmp_path, new=new).net
    assert torch.equal(again(image())["c4"], net(image())["c4"])
    with pytest.raises(aa.SavingError, match="other weights than those"):
        HubModel.from_pretrained(tmp_path, new=Plain())
    HubModel.from_pretrained(tmp_path, new=Plain(), strict=False)


class Recorded:
    """What would have been sent to the hub."""

    def __init__(self, token=None):
        Recorded.files = {}

    def create_repo(self, repo_id, **options):
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, folder_path, **options):
        Recorded.files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        return "https://huggingface.co/me/net/commit/1"


def test_pushing_uploads_config_weights_and_card(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Recorded)
    net = small()
    assert HubModel(net).push_to_hub("me/net").endswith("commit/1")
    assert sorted(Recorded.files) == ["README.md", "config.json", "model.safetensors"]
    for name, content in Recorded.files.items():
        (tmp_path / name).write_bytes(content)
    assert torch.equal(aa.restore(tmp_path, new=Plain())(image())["c4"], net(image())["c4"])


def test_a_repository_is_downloaded_without_anything_but_data(monkeypatch, tmp_path):
    net = small()
    HubModel(net).save_pretrained(tmp_path)
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    again = HubModel.from_pretrained("me/net", revision="v1", new=Plain()).net
    assert torch.equal(again(image())["c4"], net(image())["c4"])
    assert (asked["name"], asked["revision"]) == ("me/net", "v1")
    assert asked["allow_patterns"] == ["config.json", "model.safetensors"]


def test_a_repository_that_is_not_there_is_an_error_of_this_package(monkeypatch, tmp_path):
    with pytest.raises(aa.SavingError) as caught:
        HubModel.from_pretrained("nobody/nothing", local_files_only=True, cache_dir=tmp_path)
    assert caught.value.mismatches[0].where == "nobody/nothing"


def test_an_error_without_a_message_is_told_by_its_kind(monkeypatch):
    def download(name, **options):
        raise ConnectionError

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(aa.SavingError, match=r"found     ConnectionError\n"):
        HubModel.from_pretrained("nobody/nothing")


def test_a_module_that_cannot_be_saved_leaves_an_older_folder_whole(tmp_path):
    HubModel(small()).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(aa.SavingError, match="a tensor on the meta device"):
        HubModel(small().to("meta")).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_damaged_config_is_an_error_of_this_package(tmp_path):
    HubModel(small()).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(aa.SavingError, match="cannot be read"):
        HubModel.from_pretrained(tmp_path, new=Plain())


def test_only_adapted_modules_have_a_plan():
    with pytest.raises(aa.SavingError, match="only an adapted module has a plan"):
        HubModel(nn.Conv2d(3, 3, 1))
