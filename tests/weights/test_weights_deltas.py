"""Deltas of layers that are stored transposed, and adapters whose config holds more than one scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from autoadapt.errors import TransferError
from autoadapt.weights import transfer


def _state(layer: str, rows: int, columns: int, *, turned: bool) -> dict[str, Tensor]:
    """A weight with a delta as PEFT stores it: A `[r, in]`, B `[out, r]`."""
    generator = torch.Generator().manual_seed(rows)
    shapes = {
        "base_layer.weight": (columns, rows) if turned else (rows, columns),
        "base_layer.bias": (rows,),
        "lora_A.default.weight": (2, columns),
        "lora_B.default.weight": (rows, 2),
    }
    return {f"{layer}.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("front", ["", "base_model.model."])
@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (6, 8), (12, 4)])
def test_a_delta_is_transposed_into_a_layer_that_is_stored_transposed(rows: int, columns: int, front: str) -> None:
    state = _state(f"{front}attn.proj", rows, columns, turned=True) | _state(f"{front}fc", 8, 8, turned=False)
    model = nn.ModuleDict({"attn": nn.ModuleDict({"proj": Conv1D(rows, columns)}), "fc": nn.Linear(8, 8)})
    assert transfer(state, model, merge={"lora": 2.0}).ok
    for layer, weight in (("attn.proj", model["attn"]["proj"].weight), ("fc", model["fc"].weight)):
        parts = [state[f"{front}{layer}.{name}.weight"] for name in ("base_layer", "lora_A.default", "lora_B.default")]
        delta = 2 * parts[2] @ parts[1]
        torch.testing.assert_close(weight, parts[0] + (delta.T if layer == "attn.proj" else delta))


def _write(folder: Path, state: dict[str, Tensor], **config: object) -> None:
    torch.save(state, folder / "m.pth")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4, "r": 2, **config}))


@pytest.mark.parametrize(
    "extra", [{"alpha_pattern": {"fc": 16}}, {"rank_pattern": {"fc": 2}}, {"fan_in_fan_out": True}], ids=str
)
def test_a_config_of_several_scales_is_said_to_hold_them(extra: dict[str, object], tmp_path: Path) -> None:
    _write(tmp_path, _state("fc", 6, 8, turned=False), **extra)
    model = nn.ModuleDict({"fc": nn.Linear(8, 6)})
    with pytest.raises(TransferError) as caught:
        transfer(tmp_path / "m.pth", model, merge="lora")
    (fault,) = caught.value.mismatches
    assert f"adapter_config.json beside the file has {next(iter(extra))}: no one number will do" in str(caught.value)
    assert fault.remedy == "peft_model.merge_and_unload()      in PEFT, and save what comes back"


def test_a_config_that_transposes_is_followed_where_the_layers_of_the_model_tell_it(tmp_path: Path) -> None:
    state = _state("c", 8, 8, turned=True)
    _write(tmp_path, state, fan_in_fan_out=True)
    model = nn.ModuleDict({"c": Conv1D(8, 8)})
    transfer(tmp_path / "m.pth", model, merge="lora")
    delta = 2 * state["c.lora_B.default.weight"] @ state["c.lora_A.default.weight"]
    torch.testing.assert_close(model["c"].weight, state["c.base_layer.weight"] + delta.T)


def test_a_config_without_numbers_is_not_said_to_be_missing(tmp_path: Path) -> None:
    _write(tmp_path, _state("fc", 6, 8, turned=False), r=0)
    with pytest.raises(TransferError, match="beside the file tells no lora_alpha and r"):
        transfer(tmp_path / "m.pth", nn.ModuleDict({"fc": nn.Linear(8, 6)}), merge="lora")
