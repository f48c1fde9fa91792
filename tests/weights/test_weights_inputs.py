"""Inputs of first layers, tables of tokens, time axes and permuted kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from weights_models import randomised, rows

from autoadapt.errors import TransferError
from autoadapt.weights import transfer, transfer_command

# Inputs, tokens, time


@pytest.mark.parametrize("policy", ["inflate", "sum", "resample"])
def test_a_table_of_queries_has_no_input_channels(policy: str) -> None:
    source, model = nn.Module(), nn.Module()
    source.pos, source.rest = nn.Parameter(torch.rand(1, 4, 8)), nn.Parameter(torch.ones(1))
    model.pos = nn.Parameter(torch.zeros(1, 1 if policy == "sum" else 7, 8))
    model.rest = nn.Parameter(torch.zeros(1))
    report = transfer(source, model, shapes=policy)
    assert report.sources[0].how.endswith(f"{policy} does not apply")
    assert not model.pos.any()


def test_first_layers_of_every_kind_are_inflated_along_their_input() -> None:
    for old, new in (
        (nn.ConvTranspose2d(2, 3, 1), nn.ConvTranspose2d(4, 3, 1)),
        (nn.Linear(2, 3), nn.Linear(4, 3)),
        (nn.Conv1d(2, 3, 1), nn.Conv1d(4, 3, 1)),
    ):
        randomised(old, 1)
        assert transfer(old, new, shapes="inflate").ok
        image = torch.rand(1, 1, *[1] * (old.weight.ndim - 2))
        torch.testing.assert_close(
            new(image.expand(-1, 4, *image.shape[2:])), old(image.expand(-1, 2, *image.shape[2:]))
        )


def test_a_convolution_of_groups_is_not_inflated() -> None:
    report = transfer(nn.Conv2d(2, 4, 1, groups=2), nn.Conv2d(8, 4, 1, groups=2), shapes="inflate")
    assert "does not apply to a convolution of 2 groups" in report.sources[0].how


def test_a_kernel_is_never_taken_for_a_grid() -> None:
    report = transfer(nn.Conv2d(3, 8, 7), nn.Conv2d(1, 8, 7), shapes="resample")
    assert report.sources[0].bucket == "mismatched"


class Table(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(shape))
        self.rest = nn.Parameter(torch.zeros(1))


def test_a_grid_that_is_not_square_can_be_told() -> None:
    source, model = randomised(Table(1, 1214, 4), 1), Table(1, 494, 4)
    report = transfer(source, model, grid={"pos_embed": ((12, 101), (12, 41), 2)})
    assert report.sources[0].how == "resample: 12x101 -> 12x41 grid, 2 tokens kept"
    cells = source.pos_embed[:, 2:].reshape(1, 12, 101, 4).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(cells, (12, 41), mode="bicubic", antialias=True)
    expected = torch.cat([source.pos_embed[:, :2], resized.flatten(2).transpose(1, 2)], 1)
    assert torch.equal(model.pos_embed, expected)


def test_a_grid_that_is_not_that_of_the_table_says_both_counts() -> None:
    report = transfer(Table(1, 1214, 4), Table(1, 494, 4), grid={"pos_embed": ((12, 101), (12, 41), 0)})
    assert "the grid told has 1212 -> 492 tokens, the table 1214 -> 494" in report.sources[0].how
    with pytest.raises(TransferError, match="grid is malformed\ngrid, pos_embed"):
        transfer(Table(1, 4, 4), Table(1, 9, 4), grid={"pos_embed": (2, 3)})


def test_tables_and_kernels_change_their_length_in_time() -> None:
    source, model = randomised(Table(1, 4, 3), 1), Table(1, 8, 3)
    assert transfer(source, model, shapes={"pos_embed": "linear"}).sources[0].how == "linear: 4 -> 8 steps"
    expected = nn.functional.interpolate(source.pos_embed.transpose(1, 2), 8, mode="linear").transpose(1, 2)
    assert torch.equal(model.pos_embed, expected)
    still, clip = randomised(nn.Conv2d(2, 2, 3), 1), nn.Conv3d(2, 2, (3, 3, 3))
    transfer(still, clip, shapes="centre")
    assert torch.equal(clip.weight[:, :, 1], still.weight)
    assert not clip.weight[:, :, [0, 2]].any()
    longer = nn.Conv3d(2, 2, (5, 3, 3))
    for policy in ("inflate", "linear", "centre"):
        transfer(randomised(clip, 3), longer, shapes=policy)
        if policy != "centre":
            torch.testing.assert_close(longer.weight.sum(2), clip.weight.sum(2), rtol=0.2, atol=0.2)
    assert torch.equal(longer.weight[:, :, 1:4], clip.weight)


def test_the_command_says_rows_grids_and_merges_as_text(tmp_path: Path) -> None:
    torch.save(randomised(rows(17), 1).state_dict(), tmp_path / "w.pth")
    expected = transfer(tmp_path / "w.pth", rows(14), keep={"head.*": "coco->crowdpose"}, dry_run=True)
    assert transfer_command(tmp_path / "w.pth", rows(14), keep=["head.*=coco->crowdpose"]) == expected
    kept = transfer(tmp_path / "w.pth", rows(3), keep={"head": [3, None, 1]}, dry_run=True)
    assert transfer_command(tmp_path / "w.pth", rows(3), keep=["head=3,-,1"], merge=["fused", "lora=2"]) == kept
    torch.save(Table(1, 7, 2).state_dict(), tmp_path / "t.pth")
    found = transfer_command(tmp_path / "t.pth", Table(1, 9, 2), grid=["pos_embed=2x3:2x4:1"])
    assert found.sources[0].how == "resample: 2x3 -> 2x4 grid, 1 token kept"
    for wrong in ({"grid": ["pos_embed=2x3"]}, {"merge": ["lora=two"]}, {"keep": ["head"]}):
        with pytest.raises(TransferError, match="an argument is malformed"):
            transfer_command(tmp_path / "t.pth", Table(1, 9, 2), **wrong)


@pytest.mark.parametrize(
    ("old", "new", "how"),
    [
        (
            (3, 3, 3, 4, 8),
            (8, 3, 3, 3, 4),
            'the same sizes in another order: permute(4, 0, 1, 2, 3) (shapes "permute")',
        ),
        ((3, 3, 4, 8), (8, 4, 3, 3), 'the same sizes in another order: permute(3, 2, 0, 1) (shapes "permute")'),
        ((6, 2), (2, 6), 'the same sizes in another order: permute(1, 0) (shapes "permute")'),
        ((3, 3, 3, 3, 8), (8, 3, 3, 3, 3), "3 -> 8 on the first axis, 8 -> 3 on the fifth axis"),
    ],
)
def test_a_permuted_kernel_is_told_its_order_where_there_is_one(
    old: tuple[int, ...], new: tuple[int, ...], how: str
) -> None:
    model = nn.Module()
    model.kernel, model.rest = nn.Parameter(torch.zeros(new)), nn.Parameter(torch.zeros(1))
    report = transfer({"kernel": torch.zeros(old), "rest": torch.ones(1)}, model)
    assert report.sources[0].how == how


@pytest.mark.parametrize(
    ("told", "where"),
    [
        ({"keep": {"*": [3, 2, 1, 0]}}, "keep, *"),
        ({"keep": {"bias": [0, 1, 2, 9]}}, "keep, bias"),
        ({"grid": {"weight": ((6, 4), (4, 6), 0)}}, "grid, weight"),
    ],
)
def test_what_is_told_of_tensors_of_equal_shapes_is_refused_and_not_passed_over(told, where):
    source, model = nn.Linear(24, 4), nn.Linear(24, 4)
    before = model.weight.clone()
    with pytest.raises(TransferError, match="what was told would change nothing") as caught:
        transfer(source, model, **told)
    assert caught.value.mismatches[0].where == where
    assert torch.equal(model.weight, before)


def test_the_order_that_rows_have_already_is_no_fault():
    source, model = nn.Linear(24, 4), nn.Linear(24, 4)
    transfer(source, model, keep={"*": [0, 1, 2, 3]})
    assert torch.equal(model.bias, source.bias)


@pytest.mark.parametrize(
    ("old", "order"),
    [((3, 3, 3, 4, 8), (4, 0, 1, 2, 3)), ((3, 3, 4, 8), (3, 2, 0, 1)), ((6, 2), (1, 0)), ((1, 1, 4, 8), (3, 2, 0, 1))],
)
def test_a_permuted_kernel_is_taken_in_its_order_where_that_is_asked_for(old: tuple[int, ...], order: tuple[int, ...]):
    kernel, model = torch.rand(old), nn.Module()
    model.kernel = nn.Parameter(torch.zeros([old[axis] for axis in order]))
    report = transfer({"kernel": kernel}, model, shapes="permute")
    assert torch.equal(model.kernel, kernel.permute(order))
    assert report.sources[0].how == f"permute({', '.join(map(str, order))})"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((3, 3, 3, 3, 8), (8, 3, 3, 3, 3)),
        ((3, 3, 4, 8), (3, 8, 3, 4)),  # a kernel taken apart
        ((1, 1, 8, 8), (8, 8, 1, 1)),  # of one cell, or of eight by eight
        ((3, 3, 5, 5), (5, 5, 3, 3)),
        ((3, 3, 1, 1), (1, 1, 3, 3)),
        ((3, 3, 8), (8, 3, 3)),
    ],
)
def test_a_kernel_of_two_possible_orders_is_not_permuted(old: tuple[int, ...], new: tuple[int, ...]):
    model = nn.Module()
    model.kernel, model.rest = nn.Parameter(torch.zeros(new)), nn.Parameter(torch.zeros(1))
    report = transfer({"kernel": torch.ones(old), "rest": torch.ones(1)}, model, shapes="permute")
    assert report.sources[0].how.endswith("no single order of its axes")
    assert not model.kernel.any()


@pytest.mark.parametrize(
    ("source", "model", "text"),
    [
        (nn.ReLU(), "file.pth", "have changed places\n`source`\n  expected  the checkpoint first, and then the model"),
        ({}, nn.Linear, "`model` is a class\n  expected  an instance, not a class"),
        ({}, None, "`model` is of the wrong type"),
    ],
)
def test_what_is_no_model_is_refused_by_name(source: object, model: Any, text: str) -> None:
    with pytest.raises(TransferError) as caught:
        transfer(source, model)
    assert text in str(caught.value)
    assert caught.value.code
