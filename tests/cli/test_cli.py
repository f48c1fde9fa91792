"""The command line as somebody types it: what is printed, where, in what width, and with which exit code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from command_runs import CONFIG, ROOT, model_folder, run  # noqa: F401 (a fixture)
from safetensors.torch import save_file
from typer.testing import CliRunner

from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification import Verification
from autoadapt.cli import app
from autoadapt.cli.machine_commands import EXTRAS
from autoadapt.contracts.signature import Signature

COMMANDS = (
    *("demo", "models", "capture", "plan", "adapt", "verify", "swap", "regions", "transfer", "calibrate", "export"),
    *("check", "show", "assemble", "rank", "doctor"),
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself_in_eighty_columns(command: str) -> None:
    result = run(*filter(None, [command]), "--help")
    assert result.exit_code == 0
    assert result.stdout.strip()


def test_without_a_command_all_of_them_are_listed() -> None:
    result = run()
    assert result.exit_code == 0
    assert all(re.search(rf"^│ {command} ", result.stdout, re.MULTILINE) for command in COMMANDS)
    assert "0 it holds, 1 it does not, 2 a bad call" in " ".join(result.stdout.split())
    assert run("--version").stdout.startswith("autoadapt 0.")


FIRST_CONTACT = """
import time, torch, timm
with torch.inference_mode():
    timm.create_model("resnet50", features_only=True).eval()(torch.zeros(1, 3, 640, 480))
    timm.create_model("vit_small_patch16_224", dynamic_img_size=True).eval()(torch.zeros(1, 3, 640, 480))
by_hand = started = time.process_time()
from autoadapt.calibration import Calibration
from autoadapt.cli import app
try:
    app(["plan", "timm:vit_small_patch16_224", "--like", "timm:resnet50", "--input", "f32[1,3,640,480]"])
finally:
    print((time.process_time() - started) / by_hand)
"""


@pytest.mark.slow
@pytest.mark.measures
def test_the_first_contact_takes_at_most_three_times_what_loading_and_running_both_models_takes() -> None:
    for _ in range(3):  # the quickest counts: beside others also this process takes longer
        done = subprocess.run([sys.executable, "-c", FIRST_CONTACT], capture_output=True, text=True, check=True)
        *table, ratio = done.stdout.splitlines()
        if float(ratio) < 3:
            break
    assert table[:2] == [
        "timm:vit_small_patch16_224 (VisionTransformer)",
        "  ->  contract of timm:resnet50 (FeatureListNet) (list of 5)",
    ]
    assert any("384->2048" in line for line in table)
    assert max(map(len, table)) <= 80
    assert float(ratio) < 3  # in seconds of this process alone: the machine may be busy


@pytest.mark.slow
def test_results_are_json_that_reads_back() -> None:
    call = ("timm:resnet14t", "--like", "timm:resnet18", "--input", "f32[1, 3, 64, 64]", "--json")
    plan = Plan.model_validate_json(run("plan", *call).stdout)
    assert plan.source.name == "ResNet"
    assert plan.made is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", plan.made.date)
    assert {"autoadapt", "torch", "timm"} <= plan.made.versions.keys()
    assert plan.made.command.startswith("autoadapt")
    plan = plan.model_copy(update={"made": None})
    adapted = json.loads(run("adapt", *call).stdout)
    assert Plan.model_validate(adapted["plan"], strict=False) == plan
    assert Verification.model_validate(adapted["verification"], strict=False).passed
    assert Verification.model_validate_json(run("verify", *call).stdout).passed


@pytest.mark.slow
def test_a_signature_is_shown_saved_and_adapted_to(folder: Path) -> None:
    result = run("capture", "timm:resnet18", "--levels", "--out", "old.json")
    assert result.exit_code == 0
    assert "[4]   f32[B, 512, ceil(H/32), ceil(W/32)]" in result.stdout
    signature = Signature.load(folder / "old.json")
    assert str(signature) == result.stdout.strip()
    assert Signature.model_validate_json(run("capture", "timm:resnet18", "--levels", "--json").stdout) == signature
    assert "f32[B, 1000]" in run("capture", "timm:resnet18").stdout
    (folder / "old.json").rename(folder / "of:monday.json")
    planned = run("plan", "mine.py:narrow", "--like", "of:monday.json", "--outputs", "4", "--project", "always")
    assert planned.exit_code == 0
    assert "5->512" in planned.stdout


def test_a_contract_can_be_typed(folder: Path) -> None:
    result = run("plan", "mine.py:narrow", "--like", "f32[B, 8, ceil(H/4), ceil(W/4)]", "--input", "f32[1, 3, 32, 32]")
    assert result.exit_code == 0
    assert "pool 2 · 5->8" in result.stdout


@pytest.mark.slow
def test_a_page_is_written_by_who_asks_for_one(folder: Path) -> None:
    (folder / "model.yaml").write_text(CONFIG)
    torch.save(timm.create_model("resnet18").state_dict(), "r18.pth")
    image = ("--input", "f32[1, 3, 32, 32]")
    calls = {
        "Signature": ("capture", "mine.py:Net", *image),
        "Plan": ("plan", "mine.py:narrow", "--like", "mine.py:old", *image),
        "Verification": ("adapt", "mine.py:narrow", "--like", "mine.py:old", *image),
        "Swap": ("swap", "mine.py:Net", "backbone", "mine.py:narrow", *image),
        "Transfer": ("transfer", "r18.pth", "timm:resnet18"),
        "Config": ("assemble", "model.yaml"),
        "Ranking": ("rank", "mine.py:narrow", "--like", "mine.py:old", *image),
    }
    for kind, call in calls.items():
        result = run(*call, "--html", "page.html")
        assert result.exit_code == 0, result.output
        assert f">{kind}" in (folder / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_on_a_terminal_results_have_colours_and_eighty_columns(folder: Path) -> None:
    reader, writer = pty.openpty()
    command = [sys.executable, "-m", "autoadapt", "adapt", "mine.py:narrow", "--like", "mine.py:old"]
    command += ["--allow", "mine.py"]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--input", "f32[1, 3, 32, 32]"], stdout=writer, check=True, env=environment)
    os.close(writer)
    text = b""
    with contextlib.suppress(OSError):  # the end of what a terminal has to say
        while part := os.read(reader, 65536):
            text += part
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()
    assert done.returncode == 0
    assert b"\x1b[" in text
    assert any("✓ passed" in line for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("source", ["mine.py:Net", "mine:Net", "./mine.py:Net"])
def test_a_factory_is_found_by_file_and_by_module(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    result = run("capture", source, "--at", "backbone", "--input", "f32[1, 3, 64, 64]")
    assert result.exit_code == 0, result.output
    assert "f32[B, 8, floor(H/4), floor(W/4)]" in result.stdout
    sys.modules.pop("mine", None)


def test_real_values_are_used_where_a_file_is_given(folder: Path) -> None:
    call = ("capture", "mine.py:Fussy", "--at", "backbone", "--input")
    refused = run(*call, "f32[1, 3, 8, 8]")
    assert refused.exit_code == 2
    assert "this is no photograph" in refused.stderr
    photograph = np.full((1, 3, 8, 8), 255, dtype=np.float32)
    np.save("photo.npy", photograph)
    save_file({"x": torch.from_numpy(photograph)}, "photo.safetensors")
    for file in ("photo.npy", "photo.safetensors", "x=photo.npy"):
        assert run(*call, file).exit_code == 0


def test_several_inputs_are_several_arguments(folder: Path) -> None:
    save_file({"right": torch.zeros(3, 4), "left": torch.zeros(3, 4)}, "both.safetensors")
    in_order, by_name = ["f32[3, 4]", "--input", "f32[3, 4]"], ["right=f32[3, 4]", "--input", "left=f32[3, 4]"]
    for inputs in (in_order, by_name, ["both.safetensors"]):
        result = run("capture", "mine.py:Two", "--input", *inputs)
        assert result.exit_code == 0, result.output
        assert "f32[B, 2]" in result.stdout
        assert "right" in result.stdout


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("arguments", "said", "remedy"),
    [
        (["plann"], "autoadapt: No such command 'plann'", "autoadapt --help"),
        (["plan", "timm:resnet18"], "autoadapt plan: Missing option '--like'", "autoadapt plan --help"),
        (
            ["plan", "timm:resnt18", "--like", "timm:resnet18"],
            "SourceError: timm has no model `resnt18`",
            "timm:resnet18",
        ),
        (["capture", "tim:resnet18"], "SourceError: unknown scheme `tim`", "timm:resnet18"),
        (["capture", "resnet18"], "SourceError: 'resnet18' has no scheme", "timm:resnet18"),
        (["capture", "mine.py:Nte"], "SourceError: mine.py has no Nte", "mine.py:Net"),
        (["capture", "mine.py"], "SourceError: 'mine.py' has no scheme", "mine.py:build"),
        (["capture", "mien.py:Net"], "SourceError: there is no file mien.py", "mine.py"),
        (["capture", "mine.py:broken"], "RuntimeError: the driver is too old", "call it by itself"),
        (["capture", "mine.py:Net"], "CaptureError: Net does not tell what it takes", "--input 'f32[2, 3, 224, 224]'"),
        (["capture", "timm:resnet18", "--input", "f32[B, 3, H, 96]"], "found B, H", "--input 'f32[2, 3, 224, 96]'"),
        (["capture", "timm:resnet18", "--input", "f23[1, 3, 8, 8]"], "SignatureError: unknown dtype", "f32"),
        (
            ["capture", "timm:resnet18", "--input", "x.npy"],
            "SourceError: there is no file x.npy",
            "--input 'f32[2, 3, 224, 224]'",
        ),
        (["capture", "timm:resnet18", "--input", "photo"], "SourceError: photo is no input", "--input 'f32[2,"),
        (["capture", "mine.py:Two", "--input", "left=f32[1, 4]", "--input", "f32[1, 4]"], "are mixed", "--input NAME="),
        (["capture", "timm:resnet18", "--at", "layer5"], "there is no module at `layer5`", "--at layer4"),
        (["plan", "timm:resnet18", "--like", "old.jsn"], "old.jsn cannot be read", "autoadapt capture MODEL --out"),
        (["plan", "timm:resnet18", "--like", "timm:resnet18", "--pair", "x"], "x is malformed", "--pair c5=layer4"),
        (["plan", "timm:resnet18", "--like", "timm:resnet18", "--grid", "a=1"], "a=1 is no grid", "--grid blocks.11="),
        (["transfer", "none.pth", "timm:resnet18"], "SourceError: there is no such file", "check the path"),
        (
            ["transfer", "x.pth", "timm:resnet18", "--match", "oder"],
            "Invalid value for '--match'",
            "autoadapt transfer --help",
        ),
        (["assemble", "none.yaml"], "AssemblyError: none.yaml cannot be read", "check the path"),
        (["assemble", "a.yaml", "b.yaml"], "AssemblyError: several configs make no model", "--compare"),
        (["rank", "timm:rasnet*", "--like", "timm:resnet18"], "no model fits timm:rasnet*", "timm:resnet"),
        (["rank", "timm:resnet18", "--like", "timm:resnet18", "--picture", "a.txt"], "is no picture", "a.svg"),
    ],
)
def test_what_is_wrong_is_a_line_and_a_remedy_and_the_code_is_two(
    folder: Path, arguments: list[str], said: str, remedy: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert not result.stdout
    text = " ".join(result.stderr.split())
    assert said in text
    assert f"try {remedy}" in text
    assert re.search(r"^  try  ", result.stderr, re.MULTILINE)


def test_with_json_an_error_is_an_object_on_standard_error(folder: Path) -> None:
    result = run("capture", "timm:resnt18", "--json")
    found = json.loads(result.stderr)
    assert (result.exit_code, result.stdout, found["error"]) == (2, "", "SourceError")
    assert found["message"] == "timm has no model `resnt18`"
    assert found["mismatches"][0]["remedy"].splitlines()[0] == "timm:resnet18"
    misspelt = json.loads(run("plan", "timm:resnet18", "--json").stderr)
    assert misspelt["error"] == "autoadapt plan"


@pytest.mark.parametrize("arguments", [["mine.py:broken"], ["timm:no_such_model"]])
def test_the_traceback_is_there_for_who_asks(folder: Path, arguments: list[str]) -> None:
    result = run("capture", *arguments, "--debug")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr


def test_what_does_not_fit_is_no_bad_call(folder: Path) -> None:
    result = run("plan", "mine.py:narrow", "--like", "i64[B, 5]", "--input", "f32[1, 3, 32, 32]")
    assert result.exit_code == 1
    assert result.stderr.startswith("MatchError: ")


def test_a_proof_that_fails_exits_with_one(folder: Path) -> None:
    result = run("verify", "mine.py:Moody", "--like", "mine.py:old", "--input", "f32[1, 3, 64, 64]")
    assert result.exit_code == 1, result.output
    assert "DOES NOT keep its signature" in result.stdout


def complete(words: list[str], shell: str = "bash") -> list[str]:
    env = {"_AUTOADAPT_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        env |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    else:
        env |= {"_TYPER_COMPLETE_ARGS": " ".join(words)}
    return CliRunner().invoke(app, [], env=env, prog_name="autoadapt").stdout.splitlines()


def test_shells_complete_commands_options_and_names_with_colons() -> None:
    assert complete(["autoadapt", "pl"]) == ["plan"]
    assert complete(["autoadapt", "plan", "timm:resnet1", "--lik"]) == ["--like"]
    assert complete(["autoadapt", "plan", "timm:resnet1", "--project", "al"]) == ["always"]
    assert complete(["autoadapt", "plan", "h"]) == []  # transformers lists no models
    assert complete(["autoadapt", "plan", "torchvision:resnet15"], "zsh") == [
        "_arguments '*: :((\"torchvision\\\\:resnet152\"))'"
    ]


def test_bash_takes_a_colon_for_the_end_of_a_word() -> None:
    assert complete(["autoadapt", "plan", "torchvision", ":", "resnet15"]) == ["resnet152"]
    assert complete(["autoadapt", "plan", "x:y", "--like", "=", "torchvision", ":", "resnet15"]) == ["resnet152"]
    assert "resnet18" in complete(["autoadapt", "rank", "torchvision", ":"])
    assert complete(["autoadapt", "plan", "torchvision:resnet15"]) == ["resnet152"]


def test_doctor_knows_the_extras_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra, packages in EXTRAS.items():
        (listed,) = re.findall(rf"^{extra} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
        assert tuple(re.findall(r'"([\w-]+)>=', listed)) == packages
    result = run("doctor")
    assert result.exit_code == 0
    assert re.search(rf"^ torch +{re.escape(torch.__version__)}", result.stdout, re.MULTILINE)
    assert json.loads(run("doctor", "--json").stdout)["extras"]["zoo"]["timm"] == timm.__version__


@pytest.mark.slow
def test_the_demo_proves_both_swaps() -> None:
    result = run("demo", "--json")
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert [one["source"] for one in shown] == ["timm:resnet18", "torchvision:mobilenet_v2"]
    assert all(set(one["heads"].values()) == {True} for one in shown)


@pytest.mark.slow
def test_who_stops_a_command_gets_the_code_of_an_interrupt(folder: Path) -> None:
    code = "import _thread, time\n\ndef net():\n    _thread.interrupt_main()\n    time.sleep(9)\n"
    (folder / "slow.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "autoadapt", "capture", "slow.py:net", "--allow", "slow.py"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "stopped"
