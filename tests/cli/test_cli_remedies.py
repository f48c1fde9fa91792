"""In a shell nothing is said in Python: remedies and remarks are options of the command at hand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command_runs import CONFIG, model_folder, run  # noqa: F401 (a fixture)

IMAGE = ("--input", "f32[1, 3, 64, 64]")
LIKE = ("--like", "mine.py:old")
CALLS = {
    "capture": [
        ("mine.py:Net",),
        ("mine.py:Net", "--input", "f32[3, 64]"),
        ("mine.py:Net", "--input", "i64[1, 3, 64, 64]"),
        ("mine.py:Net", "--input", "y=f32[1, 3, 64, 64]"),
        ("mine.py:Net", *IMAGE, "--at", "bakbone"),
        ("mine.py:Two", "--input", "f32[1, 4]"),
        ("mine.py:Fussy", *IMAGE, "--at", "backbone"),
        ("mine.py:head", *IMAGE),
        ("mine.py:broken",),
    ],
    "plan": [
        ("mine.py:narrow", *LIKE),
        ("mine.py:narrow", "--like", "i64[B, 5]", *IMAGE),
        ("mine.py:narrow", "--like", "64, 128", *IMAGE),
        ("mine.py:narrow", "--like", "[]", *IMAGE),
        ("mine.py:narrow", "--like", "{}", *IMAGE),
        ("mine.py:narrow", "--like", "f32[B, 8", *IMAGE),
        ("mine.py:narrow", "--like", "f32[B, 8, X]", *IMAGE),
        ("mine.py:narrow", "--like", "f32[B, 8, ceil(H/4)]", *IMAGE),
        ("mine.py:narrow", "--like", "resnet18", *IMAGE),
        ("mine.py:narrow", "--like", "{'a': 'f32[B, 8, H, W]', 'b': 'i64[B, 8]'}", *IMAGE),
        ("mine.py:Indices", *LIKE, *IMAGE),
        ("mine.py:Two", *LIKE, *IMAGE),
        ("mine.py:narrow", *LIKE, *IMAGE, "--pair", "outptu=layer9"),
        ("mine.py:narrow", *LIKE, *IMAGE, "--pair", "output"),
        ("mine.py:narrow", *LIKE, *IMAGE, "--outputs", "7"),
        ("mine.py:narrow", *LIKE, *IMAGE, "--channels", "b,g"),
        ("mine.py:narrow", *LIKE, *IMAGE, "--resolution", "native"),
        ("mine.py:narrow", *LIKE, *IMAGE, "--grid", "a=1,2"),
        ("mine.py:narrow", *LIKE, *IMAGE, "--grid", "nowhere=1,2,3"),
        ("mine.py:narrow", *LIKE, *IMAGE, "--statistics", "old=1"),
        ("mine.py:narrow", *LIKE, *IMAGE, "--statistics", "old=1,2:3,4"),
        ("timm:test_resnet", "--like", "f32[B, 8, ceil(H/4), ceil(W/4)]"),
        ("timm:test_vit", "--like", "f32[B, 8, ceil(H/4), ceil(W/4)]"),
        ("timm:test_vit", "--like", "timm:test_resnet", "--pretrained"),
    ],
    "adapt": [("mine.py:narrow", *LIKE, *IMAGE, "--adapters-only"), ("mine.py:Moody", *LIKE, *IMAGE)],
    "verify": [("mine.py:narrow", *LIKE, *IMAGE), ("mine.py:narrow",), ("mine.py:Indices", *LIKE, *IMAGE)],
    "swap": [
        ("mine.py:Net", "backbone", "mine.py:narrow", *IMAGE),
        ("mine.py:Net", "backbone", "mine.py:Indices", *IMAGE),
        ("mine.py:Net", "bakbone", "mine.py:narrow", *IMAGE),
        ("mine.py:Net", "head:backbone", "mine.py:narrow", *IMAGE),
        ("mine.py:Net", "backbone.*", "mine.py:narrow", *IMAGE),
        ("mine.py:Net", "", "mine.py:narrow", *IMAGE),
        ("mine.py:Net", "backbone", "mine.py:narrow"),
        ("mine.py:Net", "backbone", "conv1x1", *IMAGE),
        ("mine.py:Net", "backbone", "mine.py:narrow", *IMAGE, "--max-parameters", "1"),
    ],
    "regions": [("mine.py:old", *IMAGE), ("mine.py:old",), ("timm:test_resnet", "--input", "f32[1, 4]")],
    "export": [("mine.py:narrow", "a.onnx"), ("mine.py:narrow", "a.jpg", *IMAGE), ("mine.py:Indices", "a.pt", *IMAGE)],
    "fold": [("mine.py:Net", "a.pt2", *IMAGE), ("mine.py:narrow", "a.onnx")],
    "check": [("mine.py:Net", "none.json", *IMAGE), ("mine.py:Net", "old.json"), ("mine.py:Net", "old.json", *IMAGE)],
    "rank": [
        ("mine.py:narrow", *LIKE),
        ("mine.py:narrow", "mine.py:Indices", *LIKE, *IMAGE),
        ("mine.py:narrow", *LIKE, *IMAGE, "--images", "pictures", "--head", "mine.py:Two"),
        ("timm:nothing*", *LIKE, *IMAGE),
    ],
    "calibrate": [
        ("mine.py:narrow", *LIKE, "--images", "pictures", "--head", "mine.py:Two"),
        ("mine.py:narrow", *LIKE, "--images", "pictures", "--at", "nowhere"),
        ("mine.py:old", "--like", "mine.py:Indices", "--images", "pictures"),
        ("mine.py:narrow", *LIKE, "--images", "empty"),
        ("mine.py:narrow", *LIKE, "--images", "x.npy"),
        ("mine.py:narrow", *LIKE, "--images", "pictures", "--new-weights", "other.pth"),
    ],
    "transfer": [
        ("other.pth", "mine.py:Net"),
        ("classes.pth", "mine.py:Net"),
        ("classes.pth", "mine.py:Net", "--shapes", "error"),
        ("classes.pth", "mine.py:Net", "--shapes", "nonsense"),
        ("classes.pth", "mine.py:Net", "--match", "order"),
        ("other.pth", "mine.py:Net", "--match", "order"),
        ("classes.pth", "mine.py:Net", "--include", "nothing*"),
        ("classes.pth", "mine.py:Net", "--scope", "ema"),
        ("classes.pth", "mine.py:Net", "--rename", "nonsense"),
        ("classes.pth", "mine.py:Net", "--merge", "nonsense"),
        ("classes.pth", "mine.py:Net", "--keep", "head.*=coco"),
        ("classes.pth", "mine.py:Net", "--grid", "head=1x1:2x2:0"),
        ("classes.pth", "mine.py:Net", "--min-coverage", "1"),
        ("wrapped.pth", "mine.py:Net"),
        ("code.pth", "mine.py:Net"),
        ("none.pth", "mine.py:Net"),
    ],
    "assemble": [
        ("none.yaml",),
        ("bad.yaml",),
        ("worse.yaml",),
        ("several.yaml",),
        ("worst.yaml",),
        ("several.yaml", "bad.yaml"),
        ("bad.yaml", "--compare"),
    ],
    "models": [("resnt",), ("resnet", "--zoo", "nonsense")],
    "show": [("none.json",), ("pictures",), ("other.pth",), ("mine.py",)],
}
PYTHON = re.compile(
    r"""\b[a-z_]+=(?:[\[{('"]|True\b|False\b|None\b|aa\.|torch\.)|\baa\.|\btorch\.\w+\(|\b[a-z_]+\(\.\.\.|\ballow\b="""
)


@pytest.fixture(name="files")
def files_that_fail(folder: Path) -> Path:
    from PIL import Image

    (folder / "pictures").mkdir()
    (folder / "empty").mkdir()
    for number in range(4):
        array = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / "pictures" / f"{number}.png")
    np.save(folder / "x.npy", np.zeros((2, 5)))
    torch.save({"a": torch.zeros(2)}, folder / "other.pth")
    classes = {"head.weight": torch.zeros(4, 8, 1, 1), "head.bias": torch.zeros(4)}
    torch.save(classes, folder / "classes.pth")
    torch.save({"state_dict": {f"module.net.{name}": value for name, value in classes.items()}}, folder / "wrapped.pth")
    torch.save(torch.nn.Linear(2, 2), folder / "code.pth")
    (folder / "bad.yaml").write_text(CONFIG.replace("LinearClsHead", "LinearClsHaed"))
    (folder / "worse.yaml").write_text(CONFIG + "neckk: X\n")
    (folder / "worst.yaml").write_text(CONFIG.replace("num_classes: 10", "num_classes: ten, in_channels: 3"))
    (folder / "several.yaml").write_text(
        CONFIG.replace("{type: ResNet_CIFAR, depth: 18}", "[timm:test_resnet, timm:x]")
    )
    assert run("capture", "mine.py:old", *IMAGE, "--out", "old.json").exit_code == 0
    return folder


def in_python(text: str) -> list[str]:
    """Lines with what no shell takes, where it is not said to be Python."""
    whole = re.sub(r"\n {2,}(?!try|see)", " ", text)
    return [line for line in whole.splitlines() if PYTHON.search(line.partition("in Python:")[0])]


@pytest.mark.slow
@pytest.mark.parametrize("command", CALLS)
def test_nothing_is_said_in_python(command: str, files: Path) -> None:
    found = {}
    for call in CALLS[command]:
        result = run(command, *call)
        found |= {" ".join(call): lines for lines in [in_python(result.output)] if lines}
    if command in ("capture", "plan", "swap"):
        refused = run(command, *CALLS[command][0], allowed=False)
        assert not in_python(refused.output)
    assert not found, "\n".join(f"{call}\n   {line}" for call, lines in found.items() for line in lines)
