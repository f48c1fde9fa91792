"""What `transfer` says, as a report and as a command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from weights_models import Adapted, PoseNet, Tied, equal, prefixed, randomised, snapshot

from autoadapt.errors import TransferError
from autoadapt.weights import Transfer, transfer, transfer_command

# The report


def test_a_report_survives_json() -> None:
    report = transfer(PoseNet(17), PoseNet(14))
    assert Transfer.model_validate_json(report.model_dump_json()) == report
    assert json.loads(report.model_dump_json())["schema_version"] == 1


def test_two_reports_can_be_compared() -> None:
    state = randomised(PoseNet(17), 1).state_dict()
    old, new = transfer(state, PoseNet(17)), transfer(state, PoseNet(17), exclude=["stem", "head_heatmap.2"])
    assert old.diff(old) == ()
    assert [str(line) for line in old.diff(new)] == [
        "model: stem.*, head_heatmap.2.*\n  expected  loaded\n  found     missing",
        "checkpoint: stem.*, head_heatmap.2.*\n  expected  loaded\n  found     excluded",
    ]


def test_no_line_is_wider_than_eighty_columns() -> None:
    reports = [
        transfer(PoseNet(17), PoseNet(14)),
        transfer(torchvision.models.resnet50(), Adapted(torchvision.models.resnet18())),
        transfer(
            timm.create_model("resnet18"), torchvision.models.resnet18(num_classes=10), include=["layer4", "stem"]
        ),
    ]
    assert max(len(line) for report in reports for line in str(report).splitlines()) <= 80


def test_patterns_that_fit_nothing_are_remarked_with_the_nearest() -> None:
    report = transfer(PoseNet(17), PoseNet(17), include=["stem", "stage22"], exclude=["deconv_layer"])
    assert report.remarks == (
        'include: "stage22" fits nothing, nearest "stage2"',
        'exclude: "deconv_layer" fits nothing, nearest "deconv_layers"',
    )


def test_the_hint_names_the_prefix_through_which_the_rest_would_meet() -> None:
    source = nn.ModuleDict({"fc": nn.Linear(50, 50), "aux": nn.ModuleDict({"cls": nn.Linear(3, 2)})})
    model = nn.ModuleDict({"fc": nn.Linear(50, 50), "extra": nn.ModuleDict({"cls": nn.Linear(3, 2)}), "new": WIDE})
    report = transfer(source, model)
    assert report.hint == 'rename={r"^aux\\.": "extra."}      2 names would agree'
    assert str(report).splitlines()[-1] == f" hint       {report.hint}"


WIDE = nn.Linear(60, 60)


def test_the_command_saves_weights_and_report(tmp_path: Path) -> None:
    source, model = randomised(PoseNet(17), 1), randomised(PoseNet(14), 2)
    torch.save({"net": prefixed(source.state_dict(), "old.")}, tmp_path / "w.pth")
    out, told = tmp_path / "out.safetensors", tmp_path / "report.json"
    report = transfer_command(
        tmp_path / "w.pth", model, rename=[r"^old\.="], shapes=["head_heatmap.*=slice"], output=out, report=told
    )
    assert Transfer.model_validate_json(told.read_text()) == report
    assert equal(load_file(out), model.state_dict())
    again = PoseNet(14)
    dry = transfer_command(tmp_path / "w.pth", again, shapes=["slice"])
    assert dry.dry_run
    with pytest.raises(TransferError, match="an argument is malformed\n--shapes slice"):
        transfer_command(tmp_path / "w.pth", again, shapes=["slice", "a=skip"])


def test_the_command_says_what_the_call_says(tmp_path: Path) -> None:
    torch.save({"net": randomised(PoseNet(17), 1).state_dict()}, tmp_path / "w.pth")
    given: dict[str, object] = {
        "scope": "net",
        "include": ["stem", "stage*", "head_heatmap"],
        "exclude": ["stage3"],
        "min_coverage": 0.05,
        "expect_missing": ["deconv_layers", "offset_layers", "transition_offset"],
        "expect_unexpected": ["transition_offset"],
    }
    texts = {"rename": ["^stem=stem"], "shapes": ["head_heatmap.2.*=slice", "head*=skip"]}
    values = {"rename": {"^stem": "stem"}, "shapes": {"head_heatmap.2.*": "slice", "head*": "skip"}}
    expected = transfer(tmp_path / "w.pth", PoseNet(14), dry_run=True, **given, **values)
    assert transfer_command(tmp_path / "w.pth", PoseNet(14), **given, **texts) == expected
    assert expected.source_counts["converted"] == 2
    ordered = transfer(tmp_path / "w.pth", PoseNet(17), match="order", dry_run=True)
    assert transfer_command(tmp_path / "w.pth", PoseNet(17), match="order") == ordered


def test_the_command_writes_no_weights_in_a_dry_run(tmp_path: Path) -> None:
    torch.save(randomised(PoseNet(17), 1).state_dict(), tmp_path / "w.pth")
    model = randomised(PoseNet(17), 2)
    before = snapshot(model)
    found = transfer_command(
        tmp_path / "w.pth", model, dry_run=True, output=tmp_path / "o.safetensors", report=tmp_path / "r.json"
    )
    assert found.dry_run
    assert equal(snapshot(model), before)
    assert not (tmp_path / "o.safetensors").exists()
    assert Transfer.model_validate_json((tmp_path / "r.json").read_text()) == found


def test_the_command_saves_a_tied_tensor_once(tmp_path: Path) -> None:
    save_file({"embedding.weight": torch.ones(7, 3)}, tmp_path / "w.safetensors")
    transfer_command(tmp_path / "w.safetensors", Tied(), output=tmp_path / "o.safetensors")
    assert list(load_file(tmp_path / "o.safetensors")) == ["embedding.weight"]
    assert transfer(tmp_path / "o.safetensors", Tied()).ok


def test_the_command_refuses_files_without_a_place_before_it_loads(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(nn.Linear(3, 2).state_dict(), path)
    content, model = path.read_bytes(), nn.Linear(3, 2)
    before = snapshot(model)
    with pytest.raises(TransferError) as caught:
        transfer_command(path, model, output=path, report=tmp_path / "no" / "r.json")
    assert (
        str(caught.value).replace(str(tmp_path), "FOLDER")
        == """\
there is no place for a file
--output FOLDER/w.safetensors
  expected  a file of its own
  found     the checkpoint"""
    )
    assert path.read_bytes() == content
    assert equal(snapshot(model), before)


def test_entries_that_are_no_tensors_do_no_harm() -> None:
    state = {**nn.Linear(3, 2).state_dict(), "args": argparse.Namespace(lr=1), "epoch": 3}
    assert transfer(state, nn.Linear(3, 2)).ok


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int8, torch.bool]
)
def test_every_dtype_goes_through_a_file_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    holder, model = nn.Module(), nn.Module()
    holder.register_buffer("table", (torch.rand(5, 3) * 4).to(dtype))
    holder.register_buffer("scalar", torch.tensor(1).to(dtype))
    holder.register_buffer("empty", torch.zeros(0, 3).to(dtype))
    for name, value in holder.named_buffers():
        model.register_buffer(name, torch.zeros_like(value))
    try:
        save_file(dict(holder.named_buffers()), tmp_path / "w.safetensors")
    except KeyError:
        pytest.skip(f"this version of safetensors writes no {dtype}")
    assert transfer(tmp_path / "w.safetensors", model).compared == 3
    assert equal(snapshot(model), snapshot(holder))
