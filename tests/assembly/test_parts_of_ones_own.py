"""Parts from allowed code, from torch and torchvision, and from a package beside the script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from assembled_configs import POOL, _config

from autoadapt.assembly import assemble
from autoadapt.errors import AssemblyError


@pytest.mark.slow
def test_a_part_from_allowed_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_parts_of_a_test.py").write_text(
        "import torch\nclass Head(torch.nn.Linear):\n    def __init__(self, in_channels: int, classes: int):\n"
        "        super().__init__(in_channels, classes)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    text = _config(POOL, "ResNet_CIFAR").replace("LinearClsHead, num_classes", '"my_parts_of_a_test:Head", classes')
    with pytest.raises(AssemblyError, match="my_parts_of_a_test"):
        assemble(text)
    assert assemble(text, allow=["my_parts_of_a_test"])(torch.zeros(1, 3, 32, 32), torch.tensor([1]))["loss"] > 0


def test_torch_and_torchvision_modules_are_parts() -> None:
    model = assemble(
        """
        input: f32[B, 3, 32, 32]
        backbone: ResNet_CIFAR
        neck: {type: "torch:AdaptiveAvgPool2d", output_size: 1}
        head: {type: "torchvision:Conv2dNormActivation", out_channels: 10, kernel_size: 1}
        loss: {type: "torch:MSELoss"}
        """
    )
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10, 1, 1)
    assert model(torch.zeros(2, 3, 32, 32), torch.zeros(2, 10, 1, 1))["loss"].ndim == 0


@pytest.mark.slow
def test_importing_assembly_imports_no_zoo() -> None:
    code = (
        "import autoadapt.assembly, autoadapt.sources, sys; "
        "print(sorted({'timm', 'torchvision', 'transformers', 'rich', 'yaml'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_input_of_another_rank_is_refused() -> None:
    expected = (
        r"f32\[B, 3, H, W\], as the backbone takes\n  found     f32\[B, 3, 8\]\n  try       input: f32\[B, 3, H, W\]"
    )
    with pytest.raises(AssemblyError, match=expected):
        assemble({"backbone": "timm:resnet18", "input": "f32[B, 3, 8]"})


PACKAGE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, widths):
        super().__init__()
        assert isinstance(widths, tuple)
        self.conv = nn.Conv2d(3, widths[0], 2, stride=2)
        self.norm = nn.BatchNorm2d(widths[0])

    def train(self, mode=True):  # as course-ware writes it: nothing comes back
        super().train(mode)
        if mode:
            self.norm.eval()

    def forward(self, x):
        return (self.norm(self.conv(x)),)

class Joined(nn.Module):
    def forward(self, levels: tuple):
        return tuple(level.mean((2, 3)) for level in levels)

class Last(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, levels):
        return self.fc(levels[-1] if isinstance(levels, tuple) else levels)
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("source", [{}, {"from": "neck"}, {"from": "neck.0"}])
def test_a_package_beside_the_script_loads_with_tuples_of_one_level(
    source: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "configs_beside"
    for name in [name for name in sys.modules if name.startswith("configs_beside")]:
        monkeypatch.delitem(sys.modules, name)  # of the case before, whose folder is gone
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    config: dict[str, Any] = {
        "input": "f32[B, 3, 8, 8]",
        "backbone": {"type": "configs_beside.parts:Net", "widths": (4,)},
        "neck": {"type": "configs_beside.parts:Joined"},
        "head": {"type": "configs_beside.parts:Last", "num_classes": 2, **source},
        "loss": "CrossEntropyLoss",
    }
    with pytest.raises(AssemblyError, match="code that is allowed"):
        assemble(config)
    model = assemble(config, allow=["configs_beside"])
    model(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))["loss"].backward()
    assert [given.source for part in model.report.parts for given in part.given] == ["backbone.c1", "neck.0", "head"]
    assert assemble(model.config, allow=["configs_beside"]).config == model.config
    config["backbone"]["widths"] = [4]
    with pytest.raises(
        AssemblyError, match=r"AssertionError: `assert isinstance\(widths, tuple\)` \(parts\.py, line 8\)"
    ):
        assemble(config, allow=["configs_beside"])
