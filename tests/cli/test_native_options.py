"""The command line says how images are read, as the functions do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoadapt.cli import app

MODELS = """
import timm
from torch import nn

def vit():
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3)

def old():
    return nn.Conv2d(3, 8, 8, stride=8, padding=3)

def whole():
    return nn.Sequential(old(), nn.ReLU())
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ([], ["native", "pad"]),
        (["--resolution", "fixed"], ["resize"]),
        (["--fit", "resize"], ["native", "resize"]),
        (["--channels", "b,g,r", "--fit", "pad"], ["native", "channels", "pad"]),
    ],
)
def test_plans_say_how_images_are_read(
    options: list[str], steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    image = ["--input", "f32[1, 3, 96, 80]", "--json", "--allow", "models.py"]
    called = CliRunner().invoke(app, ["plan", "models.py:vit", "--like", "models.py:old", *image, *options])
    assert called.exit_code == 0, called.output
    assert [step["op"] for step in json.loads(called.stdout)["inputs"][0]["steps"]] == steps
    if options:
        called = CliRunner().invoke(app, ["swap", "models.py:whole", "0", "models.py:vit", *image, *options])
        assert called.exit_code == 0, called.output
        (part,) = json.loads(called.stdout)["parts"]
        assert [step["op"] for step in part["plan"]["inputs"][0]["steps"]] == steps
