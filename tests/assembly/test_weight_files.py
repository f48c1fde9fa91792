"""What a file of weights does not have of a part, or the part of the file, is told by the report of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoadapt.assembly import AssembledModel, assemble

NET: dict[str, Any] = {"type": "ResNet_CIFAR", "depth": 18, "num_stages": 1, "out_indices": (0,)}


@pytest.fixture
def states() -> dict[str, Tensor]:
    """Those of the network, as a classifier's file has them."""
    made = assemble({"input": "f32[B, 3, 32, 32]", "backbone": NET})
    return {f"backbone.{name}": value for name, value in made.backbone.state_dict().items()}


def _loaded(states: dict[str, Tensor], folder: Path, **entry: Any) -> AssembledModel:
    torch.save({"state_dict": states}, folder / "net.pth")
    path = str(folder / "net.pth")
    if entry:
        weights = {"from": path, "to": "backbone", **entry}
        return assemble({"input": "f32[B, 3, 32, 32]", "backbone": NET, "weights": [weights]})
    start = {"type": "Pretrained", "checkpoint": path, "prefix": "backbone"}
    return assemble({"input": "f32[B, 3, 32, 32]", "backbone": {**NET, "init_cfg": start}}, allow=[path])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("entry", [{}, {"scope": "backbone"}])
def test_a_stem_that_a_file_has_under_other_names_is_told_to_keep_its_start(
    states: dict[str, Tensor], tmp_path: Path, entry: dict[str, Any]
) -> None:
    renamed = {name.replace("backbone.conv1.", "backbone.stem.0."): value for name, value in states.items()}
    assert renamed.keys() != states.keys()
    model = _loaded(renamed, tmp_path, **entry)
    (remark,) = model.report.remarks
    assert remark.startswith(f"`{tmp_path / 'net.pth'}` gave backbone 9")
    assert "of its parameters: conv1.* (1 missing); " in remark
    assert "stem.* (1 unexpected)" in remark
    assert torch.equal(model.backbone.layer1[0].conv1.weight, states["backbone.layer1.0.conv1.weight"])


def test_another_shape_and_layers_of_a_deeper_network_are_told(states: dict[str, Tensor], tmp_path: Path) -> None:
    deeper = {**states, "backbone.conv1.weight": torch.zeros(64, 1, 3, 3), "backbone.layer1.2.weight": torch.zeros(3)}
    (remark,) = _loaded(deeper, tmp_path).report.remarks
    assert "conv1.* (1 mismatched)" in remark
    assert "layer1.2.* (1 unexpected)" in remark


@pytest.mark.sampled(1)
@pytest.mark.parametrize("entry", [{"scope": "backbone"}, {"include": ["layer1.0.*"]}])
def test_what_fits_or_is_left_out_by_the_config_itself_is_no_remark(
    states: dict[str, Tensor], tmp_path: Path, entry: dict[str, Any]
) -> None:
    model = _loaded(states, tmp_path, **entry)
    assert model.report.remarks == ()
    assert isinstance(model.backbone, nn.Module)


def test_what_the_remedy_of_a_file_says_can_be_said_in_the_config(states: dict[str, Tensor], tmp_path: Path) -> None:
    other = {name.replace("layer1", "stage_a").replace(".conv", ".c"): value for name, value in states.items()}
    first = _loaded(other, tmp_path, scope="backbone", match="order")
    assert first.report.remarks == ()
    assert torch.equal(first.backbone.conv1.weight, states["backbone.conv1.weight"])
    assert assemble(first.config).config == first.config
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(value, states[f"backbone.{name}"])
    grey = {**states, "backbone.conv1.weight": states["backbone.conv1.weight"].sum(1, keepdim=True)}
    second = _loaded(grey, tmp_path, scope="backbone", shapes={"*conv1.weight": "inflate"})
    expected = grey["backbone.conv1.weight"].expand(-1, 3, -1, -1) / 3
    torch.testing.assert_close(second.backbone.conv1.weight.detach(), expected)
