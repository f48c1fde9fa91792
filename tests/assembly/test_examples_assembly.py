"""The examples of assembly run, and are as short as they say."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

from autoadapt.assembly import assemble

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return EXAMPLES


def test_every_part_is_one_decorated_class_of_under_25_lines(examples: Path) -> None:
    module = importlib.import_module("small_parts")
    parts = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == "small_parts"
    ]
    assert len(parts) == 4
    for part in parts:
        lines = inspect.getsource(part).splitlines()
        assert lines[0].startswith("@register(")
        assert len(lines) < 25


def test_the_config_with_them_trains_on_digits_with_falling_loss(examples: Path) -> None:
    torch.manual_seed(0)
    training = importlib.import_module("train_from_config")
    model = assemble(examples / "small_parts.yaml")
    losses = training.train(model, steps=20)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_another_backbone_trains_in_its_place_without_another_edit(examples: Path) -> None:
    importlib.import_module("small_parts")
    text = (
        (examples / "small_parts.yaml").read_text().replace("SmallImageResNet, widths: [16, 32, 64]", "timm:resnet18")
    )
    model = assemble(text)
    assert model.report.parts[1].given[0].stride == 32
    losses = model(torch.zeros(2, 1, 8, 8), torch.tensor([3, 4]))
    assert set(losses) == {"l1", "entropy"}
