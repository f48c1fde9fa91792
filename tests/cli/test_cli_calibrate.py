"""Calibrating from a shell: models by name or from folders, pictures of a folder, adapters or a model that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_runs import model_folder, run  # noqa: F401 (a fixture)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import autoadapt as aa
from autoadapt.adapting import adapt
from autoadapt.calibration import Calibration
from autoadapt.sources import load_backbone
from autoadapt.sources.images import preprocessing_of, read_images

pytest.importorskip("timm", reason="timm is not installed; it is in the zoo extra")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed; it comes with the zoo extra")
RESNET, VIT = "timm:test_resnet", "timm:test_vit"
IMAGE = ("--input", "f32[1, 3, 64, 64]")
STEADY = """
import torch
from mine import Net

def build():
    torch.manual_seed(0)
    return Net()
"""
OLD = ("--like", "mine.py:old", "--images", "pictures", "--count", "8")


@pytest.fixture(name="pictures")
def folder_with_pictures(folder: Path) -> Path:
    (folder / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(folder / "pictures" / f"{number}.png")
    torch.manual_seed(0)
    save_file(load_backbone(RESNET).state_dict(), folder / "resnet.safetensors")
    return folder


def calibrated(*arguments: str) -> Calibration:
    result = run("calibrate", *arguments, "--json")
    assert result.exit_code in (0, 1), result.output
    return Calibration.model_validate_json(result.stdout)


@pytest.mark.slow
def test_the_adapters_in_the_file_make_a_model_of_the_same_weights_the_old_one(pictures: Path) -> None:
    weights = ("--new-weights", "resnet.safetensors", "--like-weights", "resnet.safetensors")
    found = calibrated(RESNET, "--like", RESNET, "--images", "pictures", *weights, "--out", "adapters.safetensors")
    assert found.images == 12
    assert min(fit.r2 for fit in found.outputs) > 1 - 1e-4
    assert "pictures of 160x160, mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5 (as timm says)" in found.remarks
    old = load_backbone(RESNET).eval()
    old.load_state_dict(load_file("resnet.safetensors"))
    net = adapt(old, like=old, project="always").eval()
    missing, unexpected = net.load_state_dict(load_file("adapters.safetensors"), strict=False)
    assert not unexpected
    assert not any(name.startswith("adapters") for name in missing)
    (batch,) = read_images(pictures / "pictures", preprocessing_of(old), count=4)
    for left, right in zip(net(batch), old(batch), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0.03 * float(right.detach().abs().max()))
    with safe_open("adapters.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["autoadapt"])["like"] == RESNET


@pytest.mark.slow
def test_the_rest_of_a_bigger_model_is_the_head(pictures: Path) -> None:
    whole = ("--like", "calibration_models:segmenter", "--at", "backbone", "--allow", "calibration_models")
    found = calibrated(RESNET, *whole, "--images", "pictures", "--count", "8", "--random")
    assert found.head is not None
    assert found.images == 8
    assert any("assumed" in remark for remark in found.remarks)


@pytest.mark.slow
def test_a_head_can_be_named(pictures: Path) -> None:
    call = (RESNET, "--like", RESNET, "--images", "pictures", "--random", "--allow", "calibration_models", "--head")
    found = calibrated(*call, "calibration_models:last_level_head")
    assert found.head is not None
    refused = run("calibrate", *call, "calibration_models:pictures_of_one")
    assert refused.exit_code == 2
    assert "calibration_models:pictures_of_one gives no module" in refused.stderr


@pytest.mark.parametrize("out", ["adapters.pt", "net.onnx", "adapters.json"])
def test_what_can_hold_no_adapters_is_refused_before_anything_is_loaded(out: str, pictures: Path) -> None:
    call = ("calibrate", "timm:no_such", "--like", "timm:no_such")
    refused = run(*call, "--images", "pictures", "--out", out)
    assert refused.exit_code == 2
    assert f"a file like {Path(out).stem}.safetensors" in " ".join(refused.stderr.split())
    missing = run(*call, "--images", "none")
    assert missing.exit_code == 2
    assert "'none' does not exist" in missing.stderr


def test_a_weights_file_of_another_model_is_refused(pictures: Path) -> None:
    weights = ("--new-weights", "resnet.safetensors", "--like-weights", "resnet.safetensors")
    refused = run("calibrate", VIT, "--like", RESNET, "--images", "pictures", *weights, "--out", "adapters.safetensors")
    assert refused.exit_code == 1
    assert "a total miss" in refused.stderr
    assert not (pictures / "adapters.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("out", ["adapters.safetensors", "net"])
def test_adapters_that_were_not_fitted_are_not_saved(out: str, pictures: Path) -> None:
    call = ("calibration_models:noise", "--like", "calibration_models:smooth", "--allow", "calibration_models")
    assert not calibrated(*call, "--images", "pictures", "--out", out)
    assert not (pictures / out).exists()


@pytest.fixture(name="made")
def every_kind_of_source(pictures: Path) -> Path:
    """A net in every form that commands write, each of the same contract."""
    like = ("--like", "f32[B, 8, floor(H/4), floor(W/4)]")
    made = run("adapt", RESNET, *like, *IMAGE, "--out", "net", "--source", "net.py")
    assert made.exit_code == 0, made.output
    (pictures / "steady.py").write_text(STEADY)
    swap = ("swap", "steady.py:build", "backbone", "mine.py:old", "--project", "always")
    assert run(*swap, *IMAGE, "--out", "whole").exit_code == 0
    return pictures


@pytest.mark.slow
def test_what_adapt_has_saved_is_calibrated_as_it_is_and_read_again(made: Path) -> None:
    result = run("calibrate", "net", *OLD, "--out", "fitted")
    assert result.exit_code == 0, result.output
    before, after = (aa.restore(folder) for folder in ("net", "fitted"))
    assert before.plan == after.plan
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]) != name.startswith("adapters."), name
    for call in (("show", "fitted"), ("verify", "fitted"), ("export", "fitted", "fitted.pt2"), ("capture", "fitted")):
        assert run(*call).exit_code == 0, call
    again = run("adapt", "fitted", "--like", "fitted", "--source", "again.py")
    assert again.exit_code == 0, again.output
    assert "class Adapted" in (made / "again.py").read_text()


@pytest.mark.slow
def test_a_part_of_a_whole_model_is_calibrated_where_it_stands_and_saved_with_it(made: Path) -> None:
    call = ("calibrate", "whole", "--like", "steady.py:build", "--images", "pictures", "--count", "8")
    call += ("--allow", "mine.py")
    refused = run(*call)
    assert refused.exit_code == 2
    assert "try  --at backbone" in refused.stderr
    result = run(*call, "--at", "backbone", "--out", "fitted")
    assert result.exit_code == 0, result.output
    code = ("--allow", "steady.py", "--allow", "mine.py")
    for again in (("show", "fitted"), ("verify", "fitted", *code), ("fold", "fitted", "fitted.pt2", *code)):
        assert run(*again).exit_code == 0, again


@pytest.mark.slow
@pytest.mark.parametrize("source", ["net.pt2", "net.py"])
def test_programs_and_written_source_are_calibrated(source: str, made: Path) -> None:
    if source == "net.pt2":
        assert run("export", "net", source).exit_code == 0
    result = run("calibrate", source, *OLD, "--allow", "net.py", "--out", "fitted.safetensors")
    assert result.exit_code == 0, result.output
    assert load_file("fitted.safetensors")
    result = run("calibrate", "mine.py:narrow", "--like", source, *OLD[2:], "--allow", "net.py")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("like", ["old.json", "f32[B, 8, floor(H/4), floor(W/4)]"])
def test_a_signature_is_no_model_to_calibrate_on(like: str, pictures: Path) -> None:
    assert run("capture", "mine.py:old", "--out", "old.json", *IMAGE).exit_code == 0
    refused = run("calibrate", "mine.py:narrow", "--like", like, "--images", "pictures")
    assert refused.exit_code == 2
    assert "a model, as its outputs are learned from" in " ".join(refused.stderr.split())


@pytest.mark.slow
def test_a_folder_is_the_old_module_of_a_ranking_on_pictures(made: Path) -> None:
    ranked = run("rank", "mine.py:narrow", "--like", "net", "--images", "pictures", "--count", "8", "--random")
    assert ranked.exit_code == 0, ranked.output
    assert "calibrated on " in ranked.stdout
    refused = run("rank", "mine.py:narrow", "--like", "f32[B, 8]", "--images", "pictures", *IMAGE)
    assert refused.exit_code == 2
    assert "try  --like timm:resnet18" in refused.stderr
