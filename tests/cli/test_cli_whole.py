"""Whole models on the command line: swapped and saved by one command, folded and exported by others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_runs import MODELS, run

import autoadapt as aa
from autoadapt.cli.remedies import in_shell
from autoadapt.saving.folder_configs import checksum
from autoadapt.saving.whole_configs import WholeConfig

IMAGE = ("--input", "f32[1, 3, 64, 64]")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole model in which a backbone was swapped."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mine.py").write_text(MODELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        swapped = run("swap", "mine.py:Net", "backbone", "mine.py:narrow", "--out", "model", *IMAGE)
        (folder / "swap.txt").write_text(swapped.output)
    assert swapped.exit_code == 0, swapped.output
    return folder


def test_a_swap_is_done_and_saved_where_it_is_told_to(folder: Path) -> None:
    assert "Net: fits" in (folder / "swap.txt").read_text()
    assert "wrote model" in (folder / "swap.txt").read_text()
    shown = run("show", "model")
    assert shown.exit_code == 0
    assert "5->8" in shown.stdout
    assert shown.stdout.startswith("Net, made by mine.py:Net\n\nbackbone: mine.py:narrow (Conv2d)")
    assert list(json.loads(run("show", "model", "--json").stdout)["parts"]) == ["backbone"]
    assert run("show", "model", "--html", "parts.html").exit_code == 0
    assert "mine.py:narrow" in (folder / "parts.html").read_text()


def test_the_call_that_was_typed_at_the_swap_is_that_of_the_folder(folder: Path) -> None:
    for command in (["capture"], ["check", "--update"]):
        again = run(command[0], "model", *["lock.json"][: len(command) - 1], *command[1:], "--allow", "mine.py")
        assert again.exit_code == 0, again.output
    assert json.loads((folder / "model" / "model.json").read_text())["call"] == ["f32[1, 3, 64, 64]"]
    assert aa.Signature.load("lock.json").sizes() == {"B": 1, "H": 64, "W": 64}


@pytest.mark.parametrize("text", ["x.npy", "x=secret.safetensors", "f32[../x]", "f32[B, 3]", "[2]"])
def test_a_call_in_a_folder_is_a_dtype_and_a_shape_alone(text: str) -> None:
    with pytest.raises(ValueError, match="should match pattern"):
        WholeConfig(model="m:M", parts=(), training={}, call=(text,))


def test_a_call_in_a_folder_does_not_take_all_memory(folder: Path) -> None:
    config = json.loads((folder / "model" / "model.json").read_text())
    content = {name: value for name, value in config.items() if name != "checksum"} | {"call": ["f32[9000000000000]"]}
    (folder / "model" / "model.json").write_text(json.dumps({**content, "checksum": checksum(content)}))
    refused = run("capture", "model", "--allow", "mine.py")
    assert refused.exit_code == 2
    assert "--input" in refused.stderr
    (folder / "model" / "model.json").write_text(json.dumps(config, indent=1) + "\n")


def test_the_parts_of_a_whole_model_are_verified_each_against_the_contract_that_it_was_saved_with(folder: Path) -> None:
    refused = run("verify", "model")
    assert refused.exit_code == 2
    assert "try  --allow mine.py" in refused.stderr
    held = run("verify", "model", "--allow", "mine.py")
    assert held.exit_code == 0, held.output
    assert held.stdout.startswith("backbone: Sequential: keeps its signature")
    found = json.loads(run("verify", "model", "--allow", "mine.py", "--json").stdout)["parts"]["backbone"]
    assert {check["outcome"] for check in found["checks"]} >= {"passed", "not run"}


def test_a_whole_model_that_has_no_name_says_what_made_it(folder: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 2, stride=2), torch.nn.Conv2d(8, 4, 3))
    aa.save(aa.swap(model, "0", torch.nn.Conv2d(3, 5, 2, stride=2), inputs=torch.zeros(1, 3, 16, 16)), "unnamed")
    refused = run("capture", "unnamed")
    assert refused.exit_code == 2
    assert 'aa.restore("unnamed", model=build())' in refused.stderr
    assert "autoadapt show unnamed" in refused.stderr
    assert run("show", "unnamed").exit_code == 0


def test_a_swap_that_is_refused_saves_nothing(folder: Path) -> None:
    refused = run("swap", "mine.py:Net", "backbone", "mine.py:Indices", "--out", "none", *IMAGE)
    assert refused.exit_code == 1
    assert not (folder / "none").exists()


@pytest.mark.slow
def test_an_adapter_is_folded_away_and_what_is_left_is_written(folder: Path) -> None:
    result = run("fold", "model", "folded.pt2", "--allow", "mine.py", *IMAGE)
    assert result.exit_code == 0, result.output
    assert "wrote folded.pt2" in result.stderr
    x = torch.rand(1, 3, 64, 64)
    whole = aa.restore("model", model=aa.load("mine.py:Net", allow=["mine.py"]), allow=["mine.py"])
    folded = torch.export.load("folded.pt2").module()(x)
    assert torch.allclose(folded, whole(x), atol=1e-5)
    before = sum(one.numel() for one in whole.parameters())
    after = sum(one.numel() for one in torch.export.load("folded.pt2").state_dict.values())
    assert after < before


def test_what_reads_the_adapter_must_be_in_the_model_that_is_folded(folder: Path) -> None:
    aa.save(aa.adapt("timm:test_resnet", like="f32[B, 8, H//4, W//4]", inputs=torch.zeros(1, 3, 64, 64)), "net")
    refused = run("fold", "net", "net.pt2")
    assert refused.exit_code == 2
    assert "what reads the adapter must be in the model" in " ".join(refused.stderr.split())
    assert "try  autoadapt swap MODEL PATH NEW --out FOLDER" in refused.stderr
    assert not (folder / "net.pt2").exists()


def test_a_folded_model_is_saved_and_comes_back(folder: Path) -> None:
    def build() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 2, stride=2), torch.nn.Conv2d(8, 4, 3))

    x = torch.randn(1, 3, 16, 16)
    folded = aa.fold(aa.swap(build(), "0", torch.nn.Conv2d(3, 5, 2, stride=2), inputs=x), inputs=x)
    aa.save(folded, folder / "kept")
    back = aa.restore(folder / "kept", model=build(), new=torch.nn.Conv2d(3, 5, 2, stride=2))
    torch.testing.assert_close(back(x), folded(x), rtol=0, atol=0)


def test_a_model_that_tells_its_size_is_folded_without_inputs() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 2, stride=2), torch.nn.Conv2d(8, 4, 3))
    swapped = aa.swap(model, "0", torch.nn.Conv2d(3, 5, 2, stride=2), inputs=torch.zeros(1, 3, 16, 16))
    swapped.pretrained_cfg = {"input_size": (3, 16, 16)}
    assert aa.fold(swapped)[1].in_channels == 5


@pytest.mark.slow
def test_what_adapt_has_written_can_be_ranked(folder: Path) -> None:
    net = aa.adapt("timm:test_resnet", like="f32[B, 8, H//4, W//4]", inputs=torch.zeros(1, 3, 64, 64))
    aa.save(net, "net")
    aa.to_source(net, "net.py")
    like = ("--like", "f32[B, 8, H//4, W//4]")
    result = run("rank", "net", "net.py", *like, "--allow", "net.py", *IMAGE)
    assert result.exit_code == 0, result.output
    assert "2 of 2 candidates fit" in result.stdout


def test_texts_of_several_outputs_and_lists_of_channels_can_be_typed(folder: Path) -> None:
    two = "['f32[B, 8, H//4, W//4]', 'f32[B, 9, H//8, W//8]']"
    result = run("plan", "timm:test_resnet", "--like", two, *IMAGE)
    assert result.exit_code == 0, result.output
    assert "list of 2" in result.stdout
    for channels in ("64,128", "[64, 128]"):
        refused = run("plan", "timm:test_resnet", "--like", channels, *IMAGE)
        assert refused.exit_code == 2
        text = """--like '["f32[B, 64, ceil(H/4), ceil(W/4)]", "f32[B, 128, ceil(H/8), ceil(W/8)]"]'"""
        assert f"try  {text}\n" in refused.stderr
    assert in_shell('"f32[B, 8, H, W]"') == "--like 'f32[B, 8, H, W]'"


def test_what_holds_no_data_is_said_in_plain_words(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"schema_version": 1, "plan": {}}))
    refused = run("show", "config.json")
    assert refused.exit_code == 2
    assert "config.json holds nothing that can be shown" in " ".join(refused.stderr.split())
    assert "try  autoadapt show .\n" in refused.stderr
    assert "pydantic" not in refused.stderr
    (folder / "net.pt2").write_bytes(b"")
    program = run("show", "net.pt2")
    assert program.exit_code == 2
    assert "try  autoadapt capture net.pt2 --input 'f32[2, 3, 224, 224]'" in program.stderr


def test_a_model_without_a_region_says_so(folder: Path) -> None:
    none = run("regions", "mine.py:old", *IMAGE)
    assert none.exit_code == 1
    assert none.stderr == "mine.py:old has no region that could be a backbone\n"


def test_a_swap_is_saved_with_its_readers_rebuilt(folder: Path) -> None:
    result = run("swap", "mine.py:Net", "backbone", "mine.py:narrow", *IMAGE, "--refit", "readers", "--out", "refitted")
    assert result.exit_code == 0, result.output
    assert "to be trained" in result.stdout
    assert "--refit readers" in result.stdout
    back = aa.restore("refitted", model=aa.load("mine.py:Net", allow=["mine.py"]), allow=["mine.py"])
    assert back.get_submodule("backbone").folded.untrained
    assert not list(back.get_submodule("backbone").adapters.parameters())
