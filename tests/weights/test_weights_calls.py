"""Arguments, names and shapes that `transfer` refuses: each is told in plain words, and the model is as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from refused_transfers import net, refusal, state
from torch import Tensor, nn
from weights_models import Tied, prefixed

from autoadapt.errors import TransferError
from autoadapt.weights import transfer

# Arguments, names and shapes


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Linear(3, 3), nn.Linear(3, 3)


class Twins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(3, 2), nn.Linear(3, 2)


def wider() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3))


def expanded() -> nn.Module:
    model = nn.Linear(3, 2)
    model.weight = nn.Parameter(torch.zeros(1, 3).expand(2, 3))
    return model


def overlapping() -> nn.Module:
    model, memory = nn.Module(), torch.zeros(6)
    model.register_buffer("a", memory[:4])
    model.register_buffer("b", memory[2:])
    return model


def linear() -> dict[str, Tensor]:
    return nn.Linear(3, 2).state_dict()


def square(*names: str) -> dict[str, Tensor]:
    return {f"{name}.{leaf}": torch.ones((3, 3) if leaf == "weight" else 3) for name in names for leaf in LEAVES}


LEAVES = ("weight", "bias")
CALLS: dict[str, tuple[Callable[[], object], Callable[[], nn.Module], dict[str, Any], str]] = {
    "an address": (
        lambda: "https://x/y.pth",
        net,
        {},
        """\
SourceError: a remote address is not read
https://x/y.pth
  expected  a path on this machine
  found     a remote address
  try       download the file first""",
    ),
    "no source": (
        lambda: 3,
        net,
        {},
        """\
TransferError: the source is of no known kind
  expected  a path, a state dict or a module
  found     int""",
    ),
    "an empty state dict": (
        dict,
        net,
        {},
        """\
TransferError: there is no state dict
  expected  tensors under text keys
  found     an empty dict
  try       transfer(model.state_dict(), ...)""",
    ),
    "a total miss": (
        lambda: {"x.weight": torch.ones(7, 7)},
        net,
        {},
        """\
CoverageError: a total miss: none of 1 tensors would be loaded
state dict -> Sequential
  expected  names that agree
  found     x.weight, ...      in the checkpoint
            0.weight, 0.bias, ...      in the model""",
    ),
    "a total miss but for the prefix": (
        lambda: {"enc.a.0.weight": torch.ones(3, 3), "enc.a.0.bias": torch.ones(3), "y": torch.ones(999)},
        lambda: nn.ModuleDict({"body": nn.ModuleDict({"a": nn.ModuleList([nn.Linear(3, 3)])}), "z": nn.Linear(99, 99)}),
        {},
        """\
CoverageError: a total miss: none of 3 tensors would be loaded
state dict -> ModuleDict
  expected  names that agree
  found     enc.a.0.weight, enc.a.0.bias, ...      in the checkpoint
            body.a.0.weight, body.a.0.bias, ...      in the model
  try       rename={r"^enc\\.": "body."}      2 names would agree""",
    ),
    "a total miss by shape": (
        linear,
        lambda: nn.Linear(5, 7),
        {},
        """\
CoverageError: a total miss: none of 2 tensors would be loaded
state dict -> Linear
  expected  shapes that agree
  found     2 names agree, none of their shapes; weight: 2 -> 7 on the output axis, 3 -> 5 on the input axis
  try       shapes="slice\"""",
    ),
    "nothing left": (
        state,
        net,
        {"exclude": ["*"]},
        """\
CoverageError: a total miss: none of 9 tensors would be loaded
state dict -> Sequential
  expected  something to load
  found     all 9 tensors left out
  try       include=, exclude=, scope=""",
    ),
    "one rule, two sources": (
        state,
        net,
        {"rename": {r"^[02]\.weight": "0.weight"}},
        """\
TransferError: a rule of rename gives two tensors one name
0.weight
  expected  one tensor of the checkpoint
  found     0.weight, 2.weight
  try       exclude=["0.weight"], or a pattern in rename that tells them apart""",
    ),
    "a malformed rule": (
        state,
        net,
        {"rename": {"(": "0"}},
        """\
TransferError: a rewrite rule is malformed
rename, ('(', '0')
  expected  a regex and its replacement
  found     missing ), unterminated subpattern at position 0
  try       rename={r"^old\\.": "new."}""",
    ),
    "an unknown dialect": (
        state,
        net,
        {"rename": "mmengin"},
        """\
TransferError: unknown dialect
rename
  expected  one of wrappers, lightning, torchvision-timm, mmengine, detectron2, ema underscores, ema without dots
  found     'mmengin'
  try       rename="mmengine\"""",
    ),
    "an unknown policy": (
        state,
        net,
        {"shapes": {"2.*": "slise"}},
        """\
TransferError: unknown shape policy
shapes, 2.*
  expected  one of skip, error, slice, blocks, groups, inflate, centre, sum, resample, linear, permute
  found     'slise'
  try       shapes={"2.*": "slice"}""",
    ),
    "a policy of error": (
        state,
        wider,
        {"shapes": "error"},
        """\
TransferError: shapes differ, which the policy calls an error
2.weight
  expected  float32[3, 4]
  found     float32[2, 4]
  why       2 -> 3 on the output axis
  try       shapes={"2.weight": "skip"}
2.bias
  expected  float32[3]
  found     float32[2]
  why       2 -> 3 on the output axis
  try       shapes={"2.bias": "skip"}""",
    ),
    "too little": (
        state,
        wider,
        {"min_coverage": 0.9},
        """\
CoverageError: would load 88.8 % of the parameters, less than min_coverage=0.9
2.*
  expected  a shape that fits
  found     2 mismatched
  why       2 -> 3 on the output axis
  try       expect_missing=["2.*"]""",
    ),
    "two prefixes in the checkpoint": (
        lambda: {**prefixed(linear(), "a."), **prefixed(linear(), "b.")},
        lambda: nn.Linear(3, 2),
        {},
        """\
TransferError: two prefixes fit equally well
names
  expected  one prefix that fits best
  found     prefix "a." removed, prefix "b." removed
  try       scope="a"
            scope="b\"""",
    ),
    "two places in the model": (
        linear,
        Twins,
        {},
        """\
TransferError: two prefixes fit equally well
names
  expected  one prefix that fits best
  found     prefix "student." added, prefix "teacher." added
  try       rename={r"^": "student."}
            rename={r"^": "teacher."}""",
    ),
    "an ambiguous order": (
        lambda: square("conv1", "conv2"),
        Words,
        {"match": "order"},
        """\
TransferError: order is ambiguous: layers of equal shape could change places
in the model: reduce, expand
  expected  numbered names, or the same names on both sides
  found     equal shapes, reduce (weight 3x3, bias 3)
  try       match="names" with rename=, or exclude= for these""",
    ),
    "another order": (
        lambda: {"x.weight": torch.ones(3, 4)},
        Words,
        {"match": "order"},
        """\
TransferError: order does not match
layer 1
  expected  reduce (weight 3x3, bias 3)
  found     x (weight 3x4)
  try       match="names" with rename=""",
    ),
    "fewer layers": (
        lambda: square("x"),
        Words,
        {"match": "order"},
        """\
TransferError: order does not match
layers
  expected  2 in the model
  found     1 in the checkpoint
  try       exclude=, scope=""",
    ),
    "two values for one tensor": (
        lambda: {"embedding.weight": torch.ones(7, 3), "output.weight": torch.zeros(7, 3)},
        Tied,
        {},
        """\
TransferError: tied tensors would get two values
embedding.weight and output.weight
  expected  equal values, since the model ties them
  found     embedding.weight and output.weight differ
  try       exclude=["output.weight"]""",
    ),
    "an expanded tensor": (
        linear,
        expanded,
        {},
        """\
TransferError: the model cannot be written to
weight
  expected  a place for each element
  found     an expanded tensor
  try       tensor.clone()""",
    ),
    "overlapping tensors": (
        lambda: {"a": torch.ones(4), "b": torch.ones(4)},
        overlapping,
        {},
        """\
TransferError: the model cannot be written to
a and b
  expected  memory of their own
  found     memory shared in part
  try       exclude=["b"]""",
    ),
    "no tensors": (
        linear,
        nn.ReLU,
        {},
        """\
TransferError: the model holds no tensors
  expected  parameters or buffers
  found     ReLU with none""",
    ),
    "an unknown way to match": (
        state,
        net,
        {"match": "ordr", "min_coverage": 90},
        """\
TransferError: an argument is wrong
match
  expected  "names" or "order"
  found     'ordr'
  try       match="order"
min_coverage
  expected  a share between 0 and 1
  found     90
  try       min_coverage=0.9""",
    ),
    "nothing included": (
        lambda: prefixed(linear(), "stage2."),
        lambda: nn.ModuleDict({"stage2": nn.Linear(3, 2)}),
        {"include": ["stage22"]},
        """\
TransferError: include fits no tensor
include, "stage22"
  expected  a name of either side
  found     none
  try       include=["stage2"]""",
    ),
    "a text for a list": (
        state,
        net,
        {"include": "0"},
        """\
TransferError: a single text is no list of patterns
include
  expected  a list of patterns
  found     '0'
  try       include=["0"]""",
    ),
    "a malformed pattern": (
        state,
        net,
        {"exclude": ["re:("]},
        """\
TransferError: a pattern is malformed
exclude, re:(
  expected  a regular expression
  found     missing ), unterminated subpattern at position 0""",
    ),
    "an unknown scope": (
        lambda: {"emma": linear()},
        lambda: nn.Linear(3, 2),
        {"scope": "ema"},
        """\
TransferError: the scope matches nothing
scope="ema"
  expected  a container or the front of names
  found     containers: emma
  try       scope="emma\"""",
    ),
}


@pytest.mark.parametrize("fault", CALLS)
def test_a_bad_call_is_refused(fault: str) -> None:
    source, model, options, text = CALLS[fault]
    assert refusal(source(), model(), **options) == text


def test_tensors_without_memory_of_their_own_are_refused() -> None:
    with pytest.raises(TransferError, match=r"found     the meta device\n  try       model\.to_empty"):
        transfer(linear(), nn.Linear(3, 2, device="meta"))
    rotary = nn.Linear(3, 2, device="meta")
    rotary.register_buffer("frequencies", torch.zeros(2, device="meta"), persistent=False)
    with pytest.raises(TransferError, match="make frequencies anew, which no file holds"):
        transfer(linear(), rotary)
    with pytest.raises(TransferError, match="the model has no shapes yet\nweight, bias\n  expected  a shape"):
        transfer(linear(), nn.LazyLinear(2))
    with torch.inference_mode():
        model = nn.Linear(3, 2)
    with pytest.raises(TransferError, match="expected  a tensor made outside inference mode"):
        transfer(linear(), model)


def test_a_state_dict_that_is_a_copy_is_refused() -> None:
    model = nn.Linear(3, 2)
    model._register_state_dict_hook(lambda module, found, prefix, extra: {k: v.clone() for k, v in found.items()})
    assert "a copy made by a state-dict hook" in refusal(linear(), model)
