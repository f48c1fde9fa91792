"""What the commands for whole models, weights, configs and candidates print, write and refuse."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import typer
import yaml
from command_runs import CONFIG, model_folder, run  # noqa: F401 (a fixture)
from PIL import Image
from safetensors.torch import load_file

from autoadapt.assembly import assemble
from autoadapt.calibration import Calibration
from autoadapt.cli.outcomes import running
from autoadapt.ranking import Ranking
from autoadapt.saving import restore
from autoadapt.swapping import Swap
from autoadapt.weights import Transfer


def test_a_swap_says_what_it_would_do_or_why_it_is_refused(folder: Path) -> None:
    call = ("swap", "mine.py:Net", "backbone", "mine.py:narrow", "--input", "f32[1, 3, 32, 32]")
    fits = run(*call)
    assert fits.exit_code == 0
    assert "Net: fits" in fits.stdout
    assert " call  autoadapt swap MODEL backbone NEW --out FOLDER" in fits.stdout
    assert Swap.model_validate_json(run(*call, "--json").stdout).passed
    refused = run("swap", "mine.py:Net", "backbone", "mine.py:Indices", "--input", "f32[1, 3, 32, 32]")
    assert refused.exit_code == 1
    assert "refused" in refused.stdout
    assert run("swap", "mine.py:Net", "head", "conv1x1", "--input", "f32[1, 3, 32, 32]").exit_code == 0


@pytest.mark.slow
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
    call = ("rank", "mine.py:old", "mine.py:narrow", "--like", "mine.py:old", "--images", "images.npy")
    call += ("--head", "mine.py:head", "--state", "rank.jsonl", "--picture", "rank.svg")
    wrong = run(*call[:3], "timm:nothing", *call[3:])
    assert (wrong.exit_code, "timm has no model `nothing`" in wrong.stderr) == (2, True)
    result = run(*call)
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stderr.splitlines()] == ["1/2", "2/2", "wrote"]
    assert "2 of 2 candidates fit mine.py:old (Conv2d)" in result.stdout
    assert "<svg" in (folder / "rank.svg").read_text()
    again = Ranking.model_validate_json(run(*call, "--json").stdout)
    assert again.best_first[0].source == "mine.py:old"
    assert again.best_first[0].agreement == 1
    lines = [json.loads(line) for line in (folder / "rank.jsonl").read_text().splitlines()]
    assert [entry["candidate"] for entry in lines if entry.get("what") == "begun"].count("mine.py:old") == 1


@pytest.mark.slow
def test_published_weights_that_cannot_be_had_are_said_with_a_way_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    np.save("images.npy", np.zeros((8, 3, 32, 32), dtype=np.float32))
    result = run("rank", "mine.py:narrow", "--like", "timm:test_resnet", "--images", "images.npy")
    assert result.exit_code == 2
    assert "the weights of timm:test_resnet cannot be loaded" in result.stderr
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
    assert not (folder / "saved").exists()
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


@pytest.mark.parametrize("seconds", [0.5, pytest.param(3, marks=pytest.mark.slow)])
def test_an_interrupt_ends_a_command_without_a_traceback_and_with_nothing_half_written(seconds: float, folder: Path):
    call = [sys.executable, "-m", "autoadapt", "adapt", "mine.py:narrow", "--like", "mine.py:old", "--allow", "mine.py"]
    call += ["--input", "f32[1, 3, 64, 64]", "--out", "net"]
    running = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(seconds)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate()
    assert "Traceback" not in said
    done = 0 if "wrote net" in said else 130  # a quick machine may have done it before
    if "error_already_set" in said:  # torch's extension aborts where the interrupt meets it while it is imported
        done = -signal.SIGABRT
    assert running.returncode in (done, 130, -signal.SIGINT), said  # the last two are 130 to a shell
    assert not (folder / "net").exists() or run("show", "net").exit_code == 0  # whole, if it is there


def test_an_interrupt_that_a_library_swallows_and_fails_for_later_stops_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> None:
        with running(as_json=False, debug=False):
            with contextlib.suppress(KeyboardInterrupt):  # as an import inside an extension does
                signal.raise_signal(signal.SIGINT)
            raise AttributeError("module 'numpy' has no attribute 'logical_and'")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == 130
    assert capsys.readouterr().err == "stopped\n"
    assert signal.getsignal(signal.SIGINT) is before
