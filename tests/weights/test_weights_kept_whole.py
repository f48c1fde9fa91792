"""What belongs together is loaded together: norms, tied tensors, dtypes and layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from weights_models import PoseNet, Tied, equal, randomised, snapshot

from autoadapt.weights import transfer

# What belongs together


def test_a_norm_moves_as_a_whole_or_not_at_all() -> None:
    source, model = (nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)) for _ in range(2))
    randomised(source, 1)
    before = snapshot(model)
    state = {name: value for name, value in source.state_dict().items() if name != "1.running_var"}
    report = transfer(state, model)
    kept = {f"1.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items() if name in kept)
    assert report.source_counts == {"loaded": 3, "mismatched": 3}
    assert {e.how for e in report.sources if e.bucket == "mismatched"} == {
        "moves together with 1.running_var, which is not loaded"
    }


def test_an_old_checkpoint_without_counters_is_complete() -> None:
    source, model = randomised(nn.BatchNorm2d(4), 1), nn.Sequential(nn.BatchNorm2d(4))
    state = {f"0.{name}": value for name, value in source.state_dict().items() if name != "num_batches_tracked"}
    report = transfer(state, model)
    assert report.ok
    assert report.model_counts == {"loaded": 4, "missing": 1}


@pytest.mark.parametrize("given", [["embedding.weight"], ["output.weight"], ["embedding.weight", "output.weight"]])
def test_a_tied_tensor_is_loaded_under_all_its_names(given: list[str]) -> None:
    source, model = randomised(Tied(), 1), randomised(Tied(), 2)
    report = transfer({name: source.state_dict()[name] for name in given}, model)
    assert report.ok
    assert report.share == 1
    assert report.model_counts == {"loaded": 2}
    assert model.output.weight is model.embedding.weight
    assert torch.equal(model.output.weight, source.output.weight)


def test_a_buffer_that_the_model_does_not_save_is_not_loaded() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("scale", torch.ones(2), persistent=False)
    report = transfer({**nn.Linear(2, 2).state_dict(), "scale": torch.zeros(2)}, model)
    assert torch.equal(model.scale, torch.ones(2))
    assert report.ok
    assert report.sources[-1].how == "a buffer that the model does not save"


def test_dtype_layout_and_gradient_of_the_model_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)).to(memory_format=torch.channels_last)
    model[1].to(torch.bfloat16).requires_grad_(False)
    source = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)), 1)
    report = transfer(source, model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(model[0].weight, source[0].weight)
    assert torch.equal(model[1].weight, source[1].weight.bfloat16())
    assert [model[0].weight.requires_grad, model[1].weight.requires_grad] == [True, False]
    assert "cast from float32 to bfloat16: 2" in report.remarks


def test_a_cast_that_would_lose_meaning_is_a_mismatch() -> None:
    model = nn.BatchNorm2d(2)
    state = {**model.state_dict(), "num_batches_tracked": torch.tensor(2.5)}
    report = transfer({f"{name}": value for name, value in state.items()}, model)
    assert report.sources[-1].how == "float32 cannot become int64"


def test_nan_is_loaded_and_remarked(tmp_path: Path) -> None:
    state = nn.Linear(3, 2).state_dict()
    state["weight"][0, 1] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    for source in (state, tmp_path / "nan.safetensors"):
        model = nn.Linear(3, 2)
        report = transfer(source, model)
        assert report.remarks == ("NaN or infinity in weight",)
        assert bool(model.weight[0, 1].isnan())
        assert report.compared == 2


def test_a_backward_pass_notices_that_weights_were_replaced(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    save_file(randomised(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)), 1).state_dict(), tmp_path / "w.safetensors")
    loss = model(torch.ones(1, 3)).sum()
    transfer(tmp_path / "w.safetensors", model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_dry_run_reports_the_same_and_writes_nothing() -> None:
    source, model = randomised(PoseNet(17), 1), randomised(PoseNet(14), 2)
    before = snapshot(model)
    dry = transfer(source, model, dry_run=True)
    assert equal(snapshot(model), before)
    wet = transfer(source, model)
    assert (dry.sources, dry.targets) == (wet.sources, wet.targets)
    assert "WOULD LOAD" in str(dry)
    assert "nothing written" in str(dry)
