"""The circle of the command line: what one command writes, every other one reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from command_runs import MODELS, ROOT, run

import autoadapt as aa
from autoadapt.cli.model_names import complete_source
from autoadapt.cli.remedies import in_shell, told_in_shell

IMAGE = ("--input", "f32[1, 3, 64, 64]")
LIKE = "f32[B, 8, ceil(H/4), ceil(W/4)]"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved net of a named backbone, its source, and a signature."""
    folder = tmp_path_factory.mktemp("circle")
    (folder / "mine.py").write_text(MODELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        result = run(
            "adapt",
            "timm:test_resnet",
            "--like",
            LIKE,
            "--input",
            "f32[1, 3, 64, 64]",
            "--out",
            "net",
            "--source",
            "net.py",
        )
    assert result.exit_code == 0, result.output
    assert "(autoadapt verify net --thorough)" in result.stdout
    assert "the weights of timm:test_resnet in net are random; --pretrained" in " ".join(result.stderr.split())
    return folder


@pytest.mark.slow
def test_a_folder_is_a_model_for_every_command_that_takes_one(folder: Path) -> None:
    captured = run("capture", "net")
    assert captured.exit_code == 0, captured.output
    assert "f32[B, 8, ceil(H/4), ceil(W/4)]" in captured.stdout
    image = ("--input", "f32[1, 3, 64, 64]")
    for call in (
        ("plan", "net", "--like", "f32[B, 4, ceil(H/4), ceil(W/4)]"),
        ("plan", "mine.py:narrow", "--like", "net", *image),
        ("swap", "mine.py:Net", "backbone", "net", *image),
        ("rank", "mine.py:narrow", "--like", "net", *image),
    ):
        result = run(*call)
        assert result.exit_code == 0, result.output


def test_a_folder_is_verified_against_its_own_contract(folder: Path) -> None:
    result = run("verify", "net")
    assert result.exit_code == 0, result.output
    assert "keeps its signature" in result.stdout
    alone = run("verify", "timm:test_resnet")
    assert alone.exit_code == 2
    assert "try  --like timm:resnet18" in alone.stderr


@pytest.mark.parametrize("source", ["net", "net.py"])
def test_what_is_adapted_already_is_not_put_into_a_folder_that_nothing_could_read(source: str, folder: Path) -> None:
    image = ("--input", "f32[1, 3, 64, 64]", "--allow", "net.py")
    before = (folder / "net" / "config.json").read_bytes()
    for call in (("adapt", source, "--like", "net"), ("swap", "mine.py:Net", "backbone", source)):
        for out in ("net", "other"):
            refused = run(*call, *image, "--out", out)
            assert refused.exit_code == 2, refused.output
            assert f"{source} cannot be made again from {out}" in refused.stderr
    assert (folder / "net" / "config.json").read_bytes() == before
    assert not (folder / "other").exists()


@pytest.mark.slow
def test_titles_name_models_with_their_origin(folder: Path) -> None:
    named, image = "timm:test_resnet (ResNet, adapted)", ("--input", "f32[1, 3, 64, 64]")
    assert run("check", "net", "lock.json", "--update").exit_code == 0
    assert run("check", "net", "lock.json").stdout == f"{named} has the signature of lock.json\n"
    assert run("capture", "net").stdout.startswith(named)
    ranked = run("rank", "mine.py:old", "--like", "timm:test_resnet", *image)
    assert ranked.stdout.startswith("1 of 1 candidates fit timm:test_resnet (FeatureListNet)")
    assert " f32[1, 3, 64, 64], " in run("rank", "mine.py:old", "--like", "net").stdout
    assert (folder / "net.py").read_text().startswith('"""timm:test_resnet (ResNet) in the contract of')


def test_weights_are_transferred_into_a_folder(folder: Path) -> None:
    state = {f"backbone.{name}": value for name, value in timm.create_model("test_resnet").state_dict().items()}
    torch.save(state, "weights.pth")
    result = run("transfer", "weights.pth", "net")
    assert result.exit_code == 0, result.output
    assert "WOULD LOAD 98.9 %" in result.stdout


def test_written_source_is_a_model_only_where_it_is_allowed(folder: Path) -> None:
    refused = run("capture", "net.py", "--input", "f32[1, 3, 64, 64]")
    assert refused.exit_code == 2
    assert "try  --allow net.py" in refused.stderr
    result = run("capture", "net.py", "--allow", "net.py", "--input", "f32[1, 3, 64, 64]")
    assert result.exit_code == 0, result.output
    assert "f32[B, 8, ceil(H/4), ceil(W/4)]" in result.stdout


@pytest.mark.slow
def test_a_program_of_torch_is_exported_and_read_back(folder: Path) -> None:
    result = run("export", "net", "net.pt2")
    assert result.exit_code == 0, result.output
    assert "run in" in result.stdout
    assert "wrote net.pt2" in result.stderr
    again = run("capture", "net.pt2", "--input", "f32[2, 3, 64, 64]")
    assert again.exit_code == 0, again.output
    shown = run("show", "net.pt2")
    assert shown.exit_code == 0, shown.output
    assert "in the contract of module (tensor)" in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith(" call  autoadapt")
    assert json.loads(run("show", "net.pt2", "--json").stdout)["ranges"][0]["axis"] == "B"


def test_a_model_that_nobody_adapted_is_exported_as_itself(folder: Path) -> None:
    result = run("export", "mine.py:old", "old.pt2", "--input", "f32[1, 3, 64, 64]")
    assert result.exit_code == 0, result.output
    wrong = run("export", "mine.py:old", "old.jpg", "--input", "f32[1, 3, 64, 64]")
    assert wrong.exit_code == 2


def test_a_lock_is_written_kept_and_broken(folder: Path) -> None:
    call = ("check", "mine.py:old", "old.json", "--input", "f32[1, 3, 64, 64]")
    missing = run(*call)
    assert missing.exit_code == 2
    assert "try  autoadapt capture MODEL --out old.json" in missing.stderr
    assert run(*call, "--update").exit_code == 0
    kept = run(*call)
    assert (kept.exit_code, kept.stdout) == (0, "mine.py:old (Conv2d) has the signature of old.json\n")
    broken = run("check", "mine.py:narrow", *call[2:])
    assert "does not have the signature of old.json" in " ".join(broken.stderr.split())
    assert "try  --levels, if old.json is of feature levels" in broken.stderr
    assert broken.exit_code == 1
    assert "output, axis 1: expected 8, found 5" in " ".join(broken.stderr.split())
    assert "the same call with --update" in broken.stderr
    data = json.loads(run("check", "mine.py:narrow", *call[2:], "--json").stdout)
    assert data["same"] is False
    assert data["differences"][0]["expected"] == "8"
    assert data["differences"][0]["remedy"] == ""
    assert data["remedy"].splitlines()[-1] == "the same call with --update, if the difference is meant"


def test_folders_signatures_plans_and_verifications_are_shown(folder: Path) -> None:
    shown = run("show", "net")
    assert shown.exit_code == 0
    assert shown.stdout.startswith("timm:test_resnet (ResNet)  ->  contract of")
    assert re.search(r"\n made  \d{4}-\d\d-\d\d \d\d:\d\d UTC with autoadapt ", shown.stdout)
    assert shown.stdout.splitlines()[-1].startswith(" call  autoadapt")
    assert "so random unless trained or loaded" in " ".join(shown.stdout.split())
    plan = aa.Plan.model_validate_json(run("show", "net", "--json").stdout)
    assert plan.made is not None
    (folder / "plan.json").write_text(plan.model_dump_json())
    assert run("show", "plan.json").stdout == shown.stdout
    plan.target.save("signature.json")
    assert run("show", "signature.json").stdout.rstrip().endswith("f32[B, 8, ceil(H/4), ceil(W/4)]")
    run("capture", "net", "--out", "captured.json")
    assert "\n call  autoadapt" in run("show", "captured.json").stdout
    (folder / "report.json").write_text(run("verify", "net", "--json").stdout)
    assert "keeps its signature" in run("show", "report.json").stdout
    (folder / "other.json").write_text("[1]")
    for path in ("other.json", "none.json", "mine.py"):
        assert run("show", path).exit_code == 2


def test_json_speaks_of_options_as_the_text_does_and_leaves_data_as_it_is(folder: Path) -> None:
    told = json.loads(run("adapt", "mine.py:narrow", "--like", "mine.py:old", *IMAGE, "--json").stdout)
    details = {check["name"]: check["detail"] for check in told["verification"]["checks"]}
    assert details["export"] == "autoadapt verify ... --thorough"
    swapped = run("swap", "mine.py:Net", "backbone", "mine.py:narrow", *IMAGE, "--json")
    said = json.loads(swapped.stdout)["call"]
    assert said.startswith("autoadapt swap MODEL backbone NEW")
    plan = aa.Plan.model_validate(told["plan"])
    named = plan.model_copy(update={"source": plan.source.model_copy(update={"name": "adapt(thorough=True)"})})
    assert told_in_shell(named) == named


def test_models_are_listed_and_searched(folder: Path) -> None:
    found = run("models", "resnet18", "--zoo", "timm", "--without", "*tv*")
    assert found.exit_code == 0
    assert "timm:resnet18" in found.stdout.splitlines()
    assert not [line for line in found.stdout.splitlines() if not line.startswith("timm:")]
    assert run("models", "torchvision:resnet1*").stdout.split() == [
        "torchvision:resnet101",
        "torchvision:resnet152",
        "torchvision:resnet18",
    ]
    few = run("models", "--count", "3")
    assert len(few.stdout.splitlines()) == 3
    assert re.search(r"and \d+ more; --count 0 lists all", few.stderr)
    assert "timm:resnet18" in json.loads(run("models", "resnet18", "--json").stdout)
    wrong = run("models", "resnet18", "--zoo", "nosuch")
    assert wrong.exit_code == 2
    assert "there is no zoo 'nosuch': --zoo: expected one of timm, " in " ".join(wrong.stderr.split())
    assert "try  --zoo timm\n" in run("models", "resnet18", "--zoo", "tim").stderr
    none = run("models", "resnt18")
    assert none.exit_code == 1
    assert "try  autoadapt models timm:resnet18" in none.stderr


def test_names_complete_from_a_list_that_is_kept(folder: Path) -> None:
    assert "torchvision:resnet50" in complete_source("torchvision:resnet5")
    kept = folder / "cache" / "autoadapt" / "models.json"
    data = json.loads(kept.read_text())
    kept.write_text(json.dumps({**data, "names": {"timm": ["mine"]}}))
    assert complete_source("timm:") == ["timm:mine"]
    kept.write_text(json.dumps({**data, "key": "older", "names": {"timm": ["mine"]}}))
    assert "timm:resnet18" in complete_source("timm:resnet1")
    kept.write_text("no json")
    assert "timm:resnet18" in complete_source("timm:resnet1")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plan", "--help"], ["models", "resnet18"]])
def test_help_version_and_names_import_no_torch(folder: Path, arguments: list[str]) -> None:
    complete_source("timm:")  # the list is there
    code = f"""
import sys
from autoadapt.cli import app
try:
    app({arguments!r})
finally:
    assert not {{"torch", "numpy", "timm"}} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        env={"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache"), "PATH": ""},
    )


@pytest.mark.measures
@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_takes_less_than_half_a_second_of_work(arguments: list[str]) -> None:
    code = f"""
import sys, time
from autoadapt.cli import app
try:
    app({arguments!r})
finally:
    print(time.process_time(), file=sys.stderr)
"""
    command = [sys.executable, "-c", code]
    done = min(
        float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stderr) for _ in range(2)
    )
    assert done < 0.5


def test_every_command_has_an_example_and_shows_its_defaults() -> None:
    for command in ("plan", "adapt", "verify", "export", "check", "models", "show", "rank"):
        text = " ".join(run(command, "--help").stdout.split())
        assert f"Example: autoadapt {command}" in text
    assert "[default: needed]" in run("plan", "--help").stdout


@pytest.mark.parametrize(
    ("remedy", "shown"),
    [
        ('list_models("timm:*")', "autoadapt models 'timm:*'"),
        ('aa.capture(old, inputs).save("old.json")', "autoadapt capture MODEL --out old.json"),
        ('like="timm:resnet18"', "--like timm:resnet18"),
        ("inputs=torch.zeros(1, 3, 64, 64)", "--input 'f32[1, 3, 64, 64]'"),
        ("numpy.save(path, array)", "in Python: numpy.save(path, array)"),
        ("aa.transfer(file, model)", "autoadapt transfer CHECKPOINT MODEL"),
        ('aa.adapt(new, like=old, resolution="fixed")', "--resolution fixed"),
        ('grid={"a": (rows, columns, tokens)}', "--grid a=ROWS,COLUMNS,TOKENS"),
        ('grid={"pos": ((14, 14), (24, 24), 1)}', "--grid pos=14x14:24x24:1"),
        ('keep={"head.*": [5, 6, None]}', "--keep 'head.*=5,6,-'"),
        ("cut: taps={'output': 'layer4.0'} takes it", "cut: --pair output=layer4.0 takes it"),
        ("input_statistics={'old': aa.Statistics(mean=..., std=...)} tells", "--statistics old=MEAN:STD tells"),
        ('aa.restore("net")', "net"),
        ('model = aa.swap(model, "layer4", new)', "autoadapt swap MODEL layer4 NEW --out FOLDER"),
        ("new.double()", "in Python: new.double()"),
        ("sizes = {}", "in Python: sizes = {}"),
        ("pad to 224x256", "pad to 224x256"),
    ],
)
def test_remedies_are_those_of_a_shell(remedy: str, shown: str) -> None:
    assert in_shell(remedy) == shown


def test_what_is_to_be_pasted_stays_in_one_line(folder: Path) -> None:
    names = ",".join(f"layer{i}.conv.weight" for i in range(9))
    from autoadapt.cli.outcomes import _pasted

    assert "\n" not in _pasted(f"--expect-missing {names} --expect-missing {names}")


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("pair", "remedy"),
    [
        ("outptu=layer1", "--pair output=layer1"),
        ("output=layer9", "--pair output=layer"),
        ("output", "--pair c5=layer4"),
    ],
)
def test_a_pair_of_names_that_there_are_not_is_a_bad_call(pair: str, remedy: str, folder: Path) -> None:
    wrong = run("plan", "timm:test_resnet", "--like", LIKE, "--pair", pair)
    assert wrong.exit_code == 2, wrong.output
    assert f"try  {remedy}" in wrong.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["capture", "nowhere"],
        ["capture", "nowhere/net.pt2"],
        ["capture", "cache"],
        ["show", "nowhere"],
        ["export", "nowhere", "x.onnx"],
        ["verify", "nowhere"],
        ["check", "timm:nothing", "old.json"],
        ["plan", "timm:test_resnet", "--like", "resnet50"],
        ["no-such-command"],
    ],
)
def test_wrong_names_and_paths_exit_with_two(folder: Path, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "try  " in result.stderr


def test_a_name_without_its_zoo_is_told_with_it(folder: Path) -> None:
    result = run("plan", "timm:test_resnet", "--like", "resnet50")
    assert "try  --like timm:resnet50" in result.stderr
    assert "     --like torchvision:resnet50" in result.stderr


def test_a_picture_that_cannot_be_read_is_skipped_and_reported(folder: Path) -> None:
    from PIL import Image

    (folder / "pictures").mkdir()
    for number in range(8):
        array = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / "pictures" / f"{number}.png")
    (folder / "pictures" / "broken.png").write_bytes(b"no picture")
    result = run("calibrate", "mine.py:old", "--like", "mine.py:old", "--head", "mine.py:head", "--images", "pictures")
    assert result.exit_code == 0, result.output
    assert "broken.png" in " ".join(result.output.split())
    assert "8 unlabelled images" in result.stdout


def test_a_folder_of_a_whole_model_is_read_where_all_of_it_has_a_name(folder: Path) -> None:
    image, sizes = torch.zeros(1, 3, 64, 64), {"in_channels": 192, "out_channels": 24, "kernel_size": 2, "stride": 2}
    new = aa.load("torch.nn:Conv2d", allow=["torch"], **sizes)
    model = aa.swap(aa.load("timm:test_resnet"), "layer4", new, inputs=image)
    aa.save(model, "whole")
    shown = run("capture", "whole", "--input", "f32[1, 3, 64, 64]", "--allow", "torch")
    assert shown.exit_code == 0, shown.output
    assert "f32[B, 1000]" in shown.stdout
    assert "24->96" in run("show", "whole").stdout
    unnamed = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ReLU())
    aa.save(aa.swap(unnamed, "0", aa.load("timm:test_resnet"), inputs=image), "unnamed")
    refused = run("capture", "unnamed", "--input", "f32[1, 3, 64, 64]")
    assert refused.exit_code == 2
    assert 'try  in Python: aa.restore("unnamed", model=build())' in refused.stderr
