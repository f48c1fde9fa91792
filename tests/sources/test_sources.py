"""Sources give models by name; what runs foreign code needs the caller's word; every failure says what to do."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from autoadapt.contracts.capturing import capture
from autoadapt.contracts.origins import note_origin, origin_of
from autoadapt.contracts.views import view
from autoadapt.errors import SourceError
from autoadapt.sources import FrozenExport, list_models, load, load_backbone


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a network; the hub's own switch is read when it is imported, so both are set."""
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_timm_models_come_as_they_are_or_with_levels() -> None:
    image = torch.empty(2, 3, 64, 64, device="meta")
    assert len(capture(load("timm:resnet18"), image).outputs.leaves) == 1
    assert len(capture(load("timm:resnet18", features_only=True), image).outputs.leaves) == 5
    assert len(capture(load_backbone("timm:resnet18"), image).outputs.leaves) == 5


def test_torchvision_detectors_load_without_a_download() -> None:
    assert type(load("torchvision:resnet18")).__name__ == "ResNet"
    assert type(load("torchvision:ssdlite320_mobilenet_v3_large")).__name__ == "SSD"


def test_encoders_of_smp_give_their_levels() -> None:
    signature = capture(load("smp:resnet18"), torch.empty(2, 3, 64, 64, device="meta"))
    assert signature.outputs.leaves[0].same_as == "inputs.x"


def test_transformers_models_come_from_a_shipped_config_without_a_network() -> None:
    named = load_backbone("hf:microsoft/resnet-50", depths=[1, 1, 1, 1])
    assert [str(leaf.dims[1]) for leaf in capture(named, torch.empty(2, 3, 64, 64, device="meta")).outputs.leaves] == [
        "256",
        "512",
        "1024",
        "2048",
    ]
    assert load("hf:resnet", depths=[1, 1, 1, 1]).config.depths == [1, 1, 1, 1]


def test_a_local_folder_is_a_checkpoint_with_its_weights(tmp_path: Path) -> None:
    donor = load("hf:resnet", depths=[1, 1, 1, 1], embedding_size=8, hidden_sizes=[8, 8, 8, 8])
    donor.save_pretrained(tmp_path)
    model = load(f"hf:{tmp_path}", pretrained=True)
    assert all(torch.equal(a, b) for a, b in zip(donor.state_dict().values(), model.state_dict().values(), strict=True))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ("timm:resnt18", {}, "timm has no model `resnt18`"),
        ("timm:resnt18", {}, "try       timm:resnet18"),
        ("smp:resnt18", {}, "try       smp:resnet18"),
        ("timm:", {}, "the name is empty"),
        ("resnet18", {}, 'try       load("timm:resnet18")\n            load("torchvision:resnet18")'),
        ("tim:resnet18", {}, "unknown scheme `tim`"),
        ("tim:resnet18", {}, "try       timm:resnet18"),
        ("timm:resnet18", {"foo": 1}, "unexpected keyword argument 'foo'"),
        ("hf:resnet", {"depth": [1]}, "try       depths"),
        ("hf:nobody/nothing-resnet", {}, "the config of hf:nobody/nothing-resnet cannot be loaded"),
        ("hf:foo", {}, "try       hf:microsoft/resnet-50  # a model of huggingface.co"),
        ("hf:nobody/nothing-resnet", {}, "hf:resnet  # this architecture as it is by default"),
        ("torchvision:resnet18", {"features_only": True}, "torchvision:resnet18 has no feature levels"),
        ("timm:resnet18", {"pretrained": True}, "the weights of timm:resnet18 cannot be loaded"),
        ("hf:microsoft/resnet-50", {"pretrained": True}, "the weights of hf:microsoft/resnet-50 cannot be loaded"),
        ("smp:resnet18", {"pretrained": True}, "pretrained=False, then aa.transfer(file, model)"),
        ("my_package.models:build", {}, 'try       allow=["my_package"]'),
        ("os:getcwd", {"allow": ["o", "os.path"]}, "unknown scheme `os`"),
        ("os.path:join", {"allow": ["os.pat"]}, "which is not allowed"),
        ("torch.nn:Linearr", {"allow": ["torch"]}, "try       torch.nn:Linear"),
        ("torch.nn:Linear", {"allow": ["torch"]}, "torch.nn:Linear raises"),
        ("torch.nn:Linear", {"allow": ["torch"], "pretrained": True}, "has no published weights"),
        ("torch.nn.functional:relu", {"allow": ["torch"]}, "raises"),
        ("math:pi", {"allow": ["math"]}, "math:pi gives no module"),
        ("nothing_of_that_name:x", {"allow": ["nothing_of_that_name"]}, "cannot be imported"),
        ("nothing_here/of_that_name.py:x", {}, "there is no file nothing_here/of_that_name.py"),
        ("nothing.py:x", {"allow": ["."]}, "there is no file nothing.py"),
        ("nothing.py", {"allow": ["."]}, "try       nothing.py:build"),
        ("net.pt2", {}, "net.pt2 does not exist"),
        ("net.pt2", {"allow": ["net.pt2"]}, "no such file"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_a_remedy(source: str, options: dict[str, object], expected: str) -> None:
    with pytest.raises(SourceError) as caught:
        load(source, **options)  # type: ignore[arg-type]
    assert expected in str(caught.value)


def test_code_is_not_even_imported_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "foreign_of_a_test.py").write_text(
        f"import pathlib, torch\npathlib.Path({str(trace)!r}).touch()\n"
        "def build(width=2):\n    return torch.nn.Linear(width, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SourceError):
        load("foreign_of_a_test:build")
    assert not trace.exists()
    assert load("foreign_of_a_test:build", allow=["foreign_of_a_test"], width=5).in_features == 5
    assert trace.exists()


def test_a_file_and_a_name_in_it_are_a_model_and_what_stands_beside_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "beside_of_a_test.py").write_text("WIDTH = 3\n")
    file = tmp_path / "torch.py"  # by the name of a package: that one stays what it is
    file.write_text(
        "import beside_of_a_test\nfrom torch import nn\n\n"
        "class Net(nn.Module):\n    def __init__(self, out=2):\n        super().__init__()\n"
        "        self.layer = nn.Linear(beside_of_a_test.WIDTH, out)\n\nready = Net()\n"
    )
    source, before = f"{file}:Net", list(sys.path)
    with pytest.raises(SourceError, match="is not allowed"):
        load(source, allow=["torch"])
    model = load(source, allow=[file], out=5)
    assert model.layer.weight.shape == (5, 3)
    assert sys.path == before
    assert sys.modules["torch"] is torch
    assert load(f"{file}:ready", allow=[tmp_path]) is load_backbone(f"{file}:ready", allow=[file])
    assert type(copy.deepcopy(model)) is type(load(source, allow=[file]))
    with pytest.raises(SourceError, match=r"has no Nte(.|\n)*try +.*torch.py:Net"):
        load(f"{file}:Nte", allow=[file])


def test_a_file_that_raises_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "faulty_of_a_test.py"
    file.write_text("1 / 0\n")
    with pytest.raises(SourceError, match=r"cannot be imported(.|\n)*ZeroDivisionError"):
        load(f"{file}:x", allow=[file])
    assert "faulty_of_a_test" not in sys.modules
    file.write_text("import torch\nx = torch.nn.Identity()\n")
    assert type(load(f"{file}:x", allow=[file])) is nn.Identity


def test_an_exported_program_is_a_frozen_backbone(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.BatchNorm2d(4)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    path = tmp_path / "net.pt2"
    torch.export.save(program, path)
    with pytest.raises(SourceError, match="is not allowed"):
        load(str(path), allow=[tmp_path / "elsewhere"])
    loaded = load(str(path), allow=[tmp_path])
    assert isinstance(loaded, FrozenExport)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    image = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(loaded.train()(image), model(image))


def test_a_file_that_is_no_exported_program_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"\x80\x02cposix\nsystem\n")
    with pytest.raises(SourceError, match=r"net\.pt2 is no exported program"):
        load(str(path), allow=[tmp_path])


def test_an_assertion_without_words_is_told_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise AssertionError

    monkeypatch.setattr(torch.export, "load", refuse)
    zipfile.ZipFile(tmp_path / "net.pt2", "w").close()
    with pytest.raises(SourceError, match=r"found     AssertionError\n"):
        load(str(tmp_path / "net.pt2"), allow=[tmp_path])


def test_models_are_listed_by_pattern() -> None:
    assert list_models("timm:resnet1[08]") == ["timm:resnet18"]
    assert list_models("resnet18") == ["timm:resnet18", "torchvision:resnet18", "smp:resnet18"]
    with pytest.raises(SourceError, match="unknown scheme `tim`"):
        list_models("tim:*")


@pytest.mark.slow
def test_another_package_adds_a_scheme_by_an_entry_point(tmp_path: Path) -> None:
    (tmp_path / "zoo_of_a_test.py").write_text(
        textwrap.dedent(
            """
            import torch

            class Zoo:
                def names(self):
                    return ("small", "smaller")

                def load(self, name, *, pretrained, **options):
                    if name not in self.names():
                        raise KeyError(name)
                    return torch.nn.Conv2d(3, len(name), 2, stride=2, **options)

                backbone = load

            zoo = Zoo()
            """
        )
    )
    info = tmp_path / "zoo_of_a_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-of-a-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[autoadapt.sources]\nmine = zoo_of_a_test:zoo\nbroken = zoo_of_a_test:gone\n"
    )
    code = """
        from autoadapt.assembly import assemble
        from autoadapt.errors import SourceError
        from autoadapt.sources import list_models, load
        print(load("mine:small", bias=False).out_channels, list_models("mine:*"))
        print(assemble({"backbone": "mine:small", "neck": "GlobalAveragePooling"}).config.neck[""].expects)
        for source in ("mine:smal", "broken:x"):
            try:
                load(source)
            except SourceError as error:
                print(error.summary)
    """
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + textwrap.dedent(code)]
    found = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert found == [
        "5 ['mine:small', 'mine:smaller']",
        "('f32[B, 5, floor(H/2), floor(W/2)] centres 0.5 + 2 i depth 1',)",
        "mine has no model `smal`",
        "the scheme `broken` of another package cannot be loaded",
    ]


def test_a_loaded_model_and_its_copies_say_how_it_was_made() -> None:
    model = load("timm:resnet18", features_only=True, out_indices=(1, 2))
    expected = ("load", "timm:resnet18", False, {"features_only": True, "out_indices": (1, 2)})
    assert origin_of(copy.deepcopy(model)) == origin_of(view(model)) == expected
    assert origin_of(load_backbone("smp:resnet18")) == ("load_backbone", "smp:resnet18", False, {})
    assert origin_of(nn.Linear(1, 1)) is None


def test_options_that_no_file_can_hold_are_not_noted_and_do_no_harm() -> None:
    assert origin_of(load("timm:resnet18", act_layer=nn.ReLU)).options is None
    assert origin_of(note_origin(nn.Identity(), "load", "a:b", False, {"sizes": {(1, 2): 3}})).options is None
