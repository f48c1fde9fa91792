"""A folder with models to name on the command line, and commands run in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autoadapt.cli import app

ROOT = Path(__file__).parents[1]
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


@pytest.fixture(name="folder")
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file of models, without a network."""
    (tmp_path / "mine.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def run(*arguments: str, env: dict[str, str] | None = None, allowed: bool = True) -> Result:
    """One call in a terminal of eighty columns; nothing it prints is wider, and nothing is a traceback.

    Files of models that it names are allowed, as these are those of the tests.
    """
    files = [found[1] for one in arguments if (found := re.fullmatch(r"(.+\.py|mine):\w+", one)) and allowed]
    arguments = (*arguments, *(word for file in dict.fromkeys(files) for word in ("--allow", file)))
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80", **(env or {})}, prog_name="autoadapt")
    if "--debug" not in arguments and "--json" not in arguments:
        assert "Traceback" not in result.output
        lines = result.output.splitlines()
        pasted = re.compile(r" call  |  (try|   )  (--|autoadapt )")  # stays whole, to be pasted
        too_wide = [line for line in lines if len(line) > 80 and not pasted.match(line)]
        assert not too_wide
    return result


CONFIG = """
input: f32[B, 3, 32, 32]
backbone: {type: ResNet_CIFAR, depth: 18}
neck: GlobalAveragePooling
head: {type: LinearClsHead, num_classes: 10}
loss: CrossEntropyLoss
"""
