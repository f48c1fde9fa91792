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
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification import Verification
from autoadapt.assembly import assemble
from autoadapt.calibration import Calibration
from autoadapt.cli import app
from autoadapt.cli.machine_commands import EXTRAS
from autoadapt.contracts.signature import Signature
from autoadapt.ranking import Ranking
from autoadapt.saving import restore
from autoadapt.swapping import Swap
from autoadapt.weights import Transfer

ROOT = Path(__file__).parents[2]
COMMANDS = (
    *("demo", "models", "capture", "plan", "adapt", "verify", "swap", "regions", "transfer", "calibrate", "export"),
    *("check", "show", "assemble", "rank", "doctor"),
)

MODELS = '''
import torch
from torch import nn

calls = 0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


class Fussy(Net):
    """Runs on images that somebody has taken only."""

    def forward(self, x):
        if not x.is_meta and float(x.max()) != 255.0:
            raise ValueError("this is no photograph")
        return super().forward(x)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, left, right):
        return self.linear(left) + self.linear(right)


class Moody(nn.Module):
    """Returns fewer cells from some call on."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, x):
        global calls
        calls += 1
        return self.conv(x)[..., calls // 20 :]


class Indices(nn.Module):
    def forward(self, x):
        return x.argmax(1)


def broken():
    raise RuntimeError("the driver is too old\\nand more")


def narrow():
    return nn.Conv2d(3, 5, 2, stride=2)


def old():
    torch.manual_seed(0)
    return nn.Conv2d(3, 8, 4, stride=4)


def head():
    torch.manual_seed(1)
    return nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file of models, without a network."""
    (tmp_path / "mine.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """One call in a terminal of eighty columns; nothing it prints is wider, and nothing is a traceback."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80", **(env or {})}, prog_name="autoadapt")
    if "--debug" not in arguments and "--json" not in arguments:
        assert "Traceback" not in result.output
        lines = result.output.splitlines()
        pasted = re.compile(r" call  |  (try|   )  (--|autoadapt )")  # stays whole, to be pasted
        too_wide = [line for line in lines if len(line) > 80 and not pasted.match(line)]
        assert not too_wide
    return result


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
started = time.process_time()
from autoadapt.calibration import Calibration
from autoadapt.cli import app
try:
    app(["plan", "timm:vit_small_patch16_224", "--like", "timm:resnet50", "--input", "f32[1,3,640,480]"])
finally:
    print(time.process_time() - started)
"""


@pytest.mark.measures
def test_the_first_contact_answers_within_eight_seconds_of_importing_torch_and_timm() -> None:
    for _ in range(3):  # the quickest counts: beside others also this process takes longer
        done = subprocess.run([sys.executable, "-c", FIRST_CONTACT], capture_output=True, text=True, check=True)
        *table, seconds = done.stdout.splitlines()
        if float(seconds) < 8:
            break
    assert table[:2] == [
        "timm:vit_small_patch16_224 (VisionTransformer)",
        "  ->  contract of timm:resnet50 (FeatureListNet) (list of 5)",
    ]
    assert any("384->2048" in line for line in table)
    assert max(map(len, table)) <= 80
    assert float(seconds) < 8  # of this process alone: the machine may be busy


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
            "SourceError: x.npy cannot be read",
            "in Python: numpy.save",
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
        (["rank", "timm:resnet18", "--like", "timm:resnet18", "--picture", "a.txt"], "is no picture", "rank.svg"),
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


def test_a_swap_says_what_it_would_do_or_why_it_is_refused(folder: Path) -> None:
    call = ("swap", "mine.py:Net", "backbone", "mine.py:narrow", "--input", "f32[1, 3, 32, 32]")
    fits = run(*call)
    assert fits.exit_code == 0
    assert "Net: fits" in fits.stdout
    assert ' call  model = aa.swap(model, "backbone", new, inputs=inputs)' in fits.stdout
    assert Swap.model_validate_json(run(*call, "--json").stdout).passed
    refused = run("swap", "mine.py:Net", "backbone", "mine.py:Indices", "--input", "f32[1, 3, 32, 32]")
    assert refused.exit_code == 1
    assert "refused" in refused.stdout
    assert run("swap", "mine.py:Net", "head", "conv1x1", "--input", "f32[1, 3, 32, 32]").exit_code == 0


def test_a_backbone_that_is_no_submodule_is_offered_as_a_span_which_swap_takes(folder: Path) -> None:
    image = ("--input", "f32[2, 3, 64, 64]")
    offered = run("regions", "torchvision:resnet18", *image)
    assert (offered.exit_code, offered.stdout.splitlines()[0]) == (0, "conv1:layer4")
    fits = run("swap", "torchvision:resnet18", "conv1:layer4", "timm:resnet18", *image)
    assert (fits.exit_code, fits.stdout.splitlines()[0]) == (0, "ResNet: fits")
    none = run("regions", "mine.py:narrow", "--input", "f32[1, 3, 32, 32]")
    assert (none.exit_code, none.stdout) == (1, "")


def test_weights_that_fit_are_said_and_saved_and_too_few_of_them_are_not(folder: Path) -> None:
    donor = timm.create_model("resnet18")
    torch.save({"state_dict": {f"module.{name}": t for name, t in donor.state_dict().items()}}, "r18.pth")
    result = run("transfer", "r18.pth", "timm:resnet18", "--output", "out.safetensors", "--report", "report.json")
    assert result.exit_code == 0
    assert "LOADED 100 % of parameters" in result.stdout
    assert result.stderr == "wrote out.safetensors\nwrote report.json\n"
    assert torch.equal(load_file("out.safetensors")["conv1.weight"], donor.conv1.weight)
    assert Transfer.model_validate_json((folder / "report.json").read_text()).coverage == 1
    few = run("transfer", "r18.pth", "timm:resnet34", "--min-coverage", "0.9", "--output", "few.safetensors")
    assert few.exit_code == 1
    assert "would load 53.6 %" in few.stderr
    assert "--expect-missing 'layer" in few.stderr
    assert not (folder / "few.safetensors").exists()
    assert run("transfer", "r18.pth", "timm:resnet34").exit_code == 0
    assert run("transfer", "r18.pth", "timm:vit_tiny_patch16_224").exit_code == 1


CONFIG = """
input: f32[B, 3, 32, 32]
backbone: {type: ResNet_CIFAR, depth: 18}
neck: GlobalAveragePooling
head: {type: LinearClsHead, num_classes: 10}
loss: CrossEntropyLoss
"""


def test_a_config_is_filled_in_and_assembles_again(folder: Path) -> None:
    (folder / "model.yaml").write_text(CONFIG)
    result = run("assemble", "model.yaml", "--out", "full.yaml")
    assert result.exit_code == 0
    assert "in_channels: 512" in result.stdout
    text = (folder / "full.yaml").read_text()
    assert text.strip() in result.stdout
    assert assemble(folder / "full.yaml").config.flat() == yaml.safe_load(text)
    assert json.loads(run("assemble", "model.yaml", "--json").stdout)["config"] == yaml.safe_load(text)
    (folder / "bad.yaml").write_text(CONFIG.replace("LinearClsHead", "LinearClsHed").replace("depth: 18", "dpth: 18"))
    faulty = run("assemble", "bad.yaml")
    assert faulty.exit_code == 2
    assert "the config has 2 faults" in faulty.stderr
    assert "head.type (line 5): expected a registered head" in " ".join(faulty.stderr.split())


@pytest.mark.slow
def test_configs_are_compared(folder: Path) -> None:
    (folder / "one.yaml").write_text(CONFIG)
    (folder / "two.yaml").write_text(CONFIG.replace("{type: ResNet_CIFAR, depth: 18}", "['timm:resnet14t', 'timm:no']"))
    result = run("assemble", "one.yaml", "two.yaml", "--compare")
    assert result.exit_code == 0
    assert re.search(r"^ one: ResNet_CIFAR \(depth=18\) +11\.2M", result.stdout, re.MULTILINE)
    assert "does not fit: two: timm:no" in result.stdout
    (folder / "three.yaml").write_text(CONFIG.replace("{type: ResNet_CIFAR, depth: 18}", "['timm:nothing', 'timm:no']"))
    assert run("assemble", "three.yaml", "--compare").exit_code == 1


@pytest.mark.slow
def test_a_ranking_answers_draws_and_goes_on(folder: Path) -> None:
    np.save("images.npy", np.random.default_rng(0).random((16, 3, 16, 16), dtype=np.float32))
    call = ("rank", "mine.py:old", "mine.py:narrow", "timm:nothing", "--like", "mine.py:old", "--images", "images.npy")
    call += ("--head", "mine.py:head", "--state", "rank.jsonl", "--picture", "rank.svg")
    result = run(*call)
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stderr.splitlines()] == ["1/3", "2/3", "3/3", "wrote"]
    assert "2 of 3 candidates fit Conv2d" in result.stdout
    assert "not ranked: timm:nothing" in result.stdout
    assert "<svg" in (folder / "rank.svg").read_text()
    again = Ranking.model_validate_json(run(*call, "--json").stdout)
    assert again.best_first[0].source == "mine.py:old"
    assert again.best_first[0].agreement == 1
    lines = [json.loads(line) for line in (folder / "rank.jsonl").read_text().splitlines()]
    assert [entry["candidate"] for entry in lines if entry.get("what") == "begun"].count("mine.py:old") == 1
    none = run("rank", "timm:nothing", "--like", "mine.py:old", "--input", "f32[1, 3, 16, 16]")
    assert none.exit_code == 1


@pytest.mark.slow
def test_published_weights_that_cannot_be_had_are_said_with_a_way_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    np.save("images.npy", np.zeros((8, 3, 32, 32), dtype=np.float32))
    result = run("rank", "mine.py:narrow", "--like", "timm:test_resnet", "--images", "images.npy")
    assert result.exit_code == 2
    assert "the weights of timm:test_resnet cannot be had" in result.stderr
    assert "try  --random" in result.stderr
    assert run("rank", "mine.py:narrow", "--like", "timm:test_resnet", "--images", "images.npy", "--random").stdout


def test_what_is_adapted_is_saved_and_written_as_source(folder: Path) -> None:
    call = ("adapt", "mine.py:narrow", "--like", "mine.py:old", "--input", "f32[1, 3, 32, 32]")
    result = run(*call, "--out", "saved", "--source", "plain.py")
    assert result.exit_code == 0, result.output
    assert result.stderr == "wrote saved\nwrote plain.py\n"
    net = restore(folder / "saved", allow=["mine.py"]).eval()
    image = torch.randn(2, 3, 64, 32)
    assert net(image).shape == (2, 8, 16, 8)
    assert "autoadapt" not in {line.split()[1].split(".")[0] for line in imports(folder / "plain.py")}
    small = run(*call, "--out", "small", "--adapters-only")
    assert small.exit_code == 0
    assert set(load_file(folder / "small" / "model.safetensors")) < set(
        load_file(folder / "saved" / "model.safetensors")
    )


def imports(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]


def test_nothing_is_saved_of_what_does_not_hold(folder: Path) -> None:
    call = ("adapt", "mine.py:Moody", "--like", "mine.py:old", "--input", "f32[1, 3, 64, 64]", "--out", "saved")
    sys.modules.pop("mine", None)  # it counts its calls
    result = run(*call, "--source", "plain.py")
    assert result.exit_code == 1, result.output
    assert not list((folder / "saved").glob("*"))  # the folder is made before any work, to see that it can be
    assert not (folder / "plain.py").exists()


@pytest.mark.slow
def test_adapters_are_calibrated_on_pictures_and_saved(folder: Path) -> None:
    (folder / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(folder / "pictures" / f"{number}.png")
    call = ("calibrate", "mine.py:old", "--like", "mine.py:old", "--head", "mine.py:head", "--images", "pictures")
    result = run(*call, "--out", "adapters.safetensors", "--picture", "fit.svg", "--html", "page.html")
    assert result.exit_code == 0, result.output
    assert "12 unlabelled images" in result.stdout
    assert "calibrated" in result.stdout
    assert set(load_file("adapters.safetensors")) == {f"adapters.output.project.{name}" for name in ("weight", "bias")}
    assert "<svg" in (folder / "fit.svg").read_text()
    assert ">Calibration" in (folder / "page.html").read_text()
    assert Calibration.model_validate_json(run(*call, "--json").stdout).images == 12
    (folder / "noise.py").write_text(NOISE)
    useless = run("calibrate", "noise.py:Deaf", *call[2:], "--out", "useless.safetensors")
    assert useless.exit_code == 1, useless.output
    assert not (folder / "useless.safetensors").exists()
    ranked = run("rank", "mine.py:narrow", *call[2:6], "--images", "pictures", "--count", "8")
    assert ranked.exit_code == 0, ranked.output
    assert "on 2 images not fitted on; calibrated on 6 unlabelled images" in " ".join(ranked.stdout.split())


NOISE = """
import torch
from torch import nn


class Deaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, stride=4)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x):
        return self.conv(x)
"""


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
        [sys.executable, "-m", "autoadapt", "capture", "slow.py:net"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "stopped"
