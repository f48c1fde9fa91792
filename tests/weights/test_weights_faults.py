"""Planted faults: each is told in plain words, and each leaves the model as it was, bit for bit."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from weights_models import Tied, equal, prefixed, randomised, snapshot

from autoadapt.errors import AdaptError, SourceError, TransferError
from autoadapt.weights import copying, transfer, transferring
from autoadapt.weights.slots import refuse_unwritable


def net() -> nn.Module:
    return randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)), 2)


def state() -> dict[str, Tensor]:
    return dict(randomised(net(), 1).state_dict())


def refusal(source: object, model: nn.Module, **options: Any) -> str:
    """The text of the error, the model proven untouched."""
    before = snapshot(model)
    with pytest.raises(AdaptError) as caught:
        transfer(source, model, **options)
    assert equal(snapshot(model), before)
    return f"{type(caught.value).__name__}: {caught.value}"


# Files


def write_code(path: Path) -> None:
    torch.save({"state_dict": state(), "args": argparse.Namespace(lr=1)}, path)


def write_old_code(path: Path) -> None:
    content = {"state_dict": state(), "args": argparse.Namespace(lr=1)}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_number(path: Path) -> None:
    torch.save({"state_dict": state(), "loss": np.float64(3)}, path)


def write_new(path: Path) -> None:
    torch.save(state(), path, pickle_protocol=4)


def write_new_and_old(path: Path) -> None:
    torch.save(state(), path, pickle_protocol=5, _use_new_zipfile_serialization=False)


def write_cut(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:1500])


def write_cut_safetensors(path: Path) -> None:
    save_file(state(), path)
    path.write_bytes(path.read_bytes()[:-50])


def write_corrupt_safetensors(path: Path) -> None:
    save_file(state(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + b"{garbage" + whole[16:])


def write(content: object) -> Callable[[Path], None]:
    if isinstance(content, str):
        return lambda path: path.write_text(content) and None
    return lambda path: torch.save(content, path)


NEEDS_CODE = """\
SourceError: the file needs code to load
FILE
  expected  tensors and plain containers
  found     argparse.Namespace
  why       a pickle runs what it names; autoadapt runs nothing that a file says
  try       torch.save(model.state_dict(), "weights.pth")      where the file was made
            with torch.serialization.safe_globals([argparse.Namespace]): transfer(...)      if you trust these"""
TOO_NEW = """\
SourceError: the pickle is too new to be read without running it
FILE
  expected  a pickle of protocol 3 or older, as torch writes it
  found     protocol {}
  try       torch.save(model.state_dict(), "weights.pth")      where the file was made"""
NO_DICT = """\
TransferError: there is no state dict
NAME
  expected  tensors under text keys
  found     {}
  try       transfer(model.state_dict(), ...)"""
NO_WEIGHTS = """\
SourceError: the file holds no weights
FILE
  expected  weights
  found     {}
  try       {}"""
FILES = {
    "code": ("w.pth", write_code, NEEDS_CODE),
    "code in the old format": ("w.pth", write_old_code, NEEDS_CODE),
    "a numpy scalar": ("w.pth", write_number, "try       torch.save(model.state_dict()"),
    "a new pickle": ("w.pth", write_new, TOO_NEW.format(4)),
    "a new pickle in the old format": ("w.pth", write_new_and_old, TOO_NEW.format(5)),
    "cut": ("w.pth", write_cut, "SourceError: the file is damaged\nFILE\n  expected  a whole PyTorch file\n"),
    "cut safetensors": ("w.safetensors", write_cut_safetensors, "  expected  a whole safetensors file\n"),
    "corrupt safetensors": ("w.safetensors", write_corrupt_safetensors, "the file is damaged\nFILE\n"),
    "a list": ("w.pth", write([1, 2]), NO_DICT.format("a list")),
    "an empty dict": ("w.pth", write({}), NO_DICT.format("an empty dict")),
    "numbers": ("w.pth", write({"epoch": 3, "lr": 0.1}), NO_DICT.format("a dict of 1 int, 1 float: epoch, lr")),
    "nothing": ("w.pth", write(""), "SourceError: the file holds no weights\nFILE\n"),
    "a pointer": (
        "w.pth",
        write("version https://git-lfs.github.com/spec/v1\n"),
        NO_WEIGHTS.format("a Git LFS pointer", "git lfs pull"),
    ),
    "a page": ("w.pth", write("<html>"), NO_WEIGHTS.format("a web page", "copy or download it again")),
    "text": ("w.pth", write("hello, these are no weights"), "SourceError: the file is damaged\nFILE\n"),
    "no weight map": ("w.index.json", write("{}"), "the index of the shards cannot be read\nFILE\n"),
    "shards elsewhere": (
        "w.index.json",
        write(json.dumps({"weight_map": {"a": "../x.bin"}})),
        """\
SourceError: the index names files elsewhere
FILE
  expected  shards beside the index
  found     ../x.bin""",
    ),
    "a missing shard": (
        "w.index.json",
        write(json.dumps({"weight_map": {"a": "x.bin"}})),
        "SourceError: shards are missing, 1 of 1\nFOLDER/x.bin\n  expected  a shard\n  found     no file",
    ),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_bad_file_is_refused(fault: str, tmp_path: Path) -> None:
    name, make, text = FILES[fault]
    make(tmp_path / name)
    found = refusal(tmp_path / name, net())
    assert text in found.replace(str(tmp_path / name), "FILE").replace(str(tmp_path), "FOLDER").replace(name, "NAME")


def test_a_missing_file_is_an_error_with_the_paths_tried(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "weights.pth")
    assert (
        refusal(tmp_path / "wieghts", net()).replace(str(tmp_path), "FOLDER")
        == """\
SourceError: there is no such file
FOLDER/wieghts
  expected  a file of weights
  found     none of
            FOLDER/wieghts
            FOLDER/wieghts.safetensors
            FOLDER/wieghts.pth
            FOLDER/wieghts.pt
            FOLDER/wieghts.bin
            FOLDER/wieghts.ckpt
  try       FOLDER/weights.pth"""
    )


def test_a_file_that_shrinks_during_the_load_leaves_the_model_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(state(), path)
    calls = iter(range(99))

    def copy_then_cut(place: Any, values: Any) -> None:
        if next(calls) == 3:
            path.write_bytes(path.read_bytes()[:-80])
        plain_copy(place, values)

    plain_copy = copying._copy
    monkeypatch.setattr(copying, "_copy", copy_then_cut)
    text = refusal(path, net())
    assert text.startswith("TransferError: a tensor could not be copied; the model is as it was\n")
    assert "found     OSError: w.safetensors was changed after its header was read" in text


@pytest.mark.parametrize("change", ["replaced", "written to"])
def test_a_file_that_is_another_than_the_one_checked_is_not_taken_for_it(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "w.safetensors", tmp_path / "other.safetensors"
    save_file(state(), path)
    save_file({name: value + 1 for name, value in state().items()}, other)
    assert path.stat().st_size == other.stat().st_size

    def change_then_check(*arguments: Any) -> None:
        if change == "replaced":
            other.replace(path)
        else:
            path.write_bytes(other.read_bytes())
        refuse_unwritable(*arguments)

    monkeypatch.setattr(transferring, "refuse_unwritable", change_then_check)
    text = refusal(path, net())
    assert "OSError: w.safetensors was changed after its header was read" in text


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


# After the first write


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("victim", [0, 3, 6])
def test_a_tensor_that_silently_was_not_copied_is_caught(
    victim: int, from_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, plain_copy = iter(range(99)), copying._copy

    def skip_one(place: Any, values: Any) -> None:
        if next(calls) != victim:
            plain_copy(place, values)

    monkeypatch.setattr(copying, "_copy", skip_one)
    source: object = state()
    if from_file:
        save_file(state(), tmp_path / "w.safetensors")
        source = tmp_path / "w.safetensors"
    text = refusal(source, net())
    assert text.startswith("TransferError: a tensor differs from its source after the copy")
    assert "; the model is as it was\n" in text


def test_one_wrong_bit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def flip_sign_of_zero(place: Any, values: Any) -> None:
        plain_copy(place, values)
        if not values.any():
            place[3] = 128

    plain_copy = copying._copy

    monkeypatch.setattr(copying, "_copy", flip_sign_of_zero)
    source = {"weight": torch.zeros(2, 3), "bias": torch.ones(2)}
    assert "a tensor differs from its source after the copy" in refusal(source, nn.Linear(3, 2))


def half(model: nn.Module) -> nn.Module:
    return model.bfloat16()


def channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("convert", [half, channels_last])
@pytest.mark.parametrize("from_file", [False, True])
def test_whatever_way_tensors_take_all_are_put_back(
    convert: Callable[[nn.Module], nn.Module], from_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 5, RuntimeError("no memory"))
    save_file(state(), tmp_path / "w.safetensors")
    text = refusal(tmp_path / "w.safetensors" if from_file else state(), convert(net()))
    assert text.startswith("TransferError: a tensor could not be copied; the model is as it was\n")


def test_the_pieces_of_a_large_tensor_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(nn.Linear(2200, 1000).state_dict(), tmp_path / "w.safetensors")  # five pieces
    fail_at(monkeypatch, 4, RuntimeError("no memory"))
    assert "the model is as it was" in refusal(tmp_path / "w.safetensors", nn.Linear(2200, 1000))


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    calls, plain_copy = iter(range(99)), copying._copy

    def stop(place: Any, values: Any) -> None:
        if next(calls) == number:
            raise error
        plain_copy(place, values)

    monkeypatch.setattr(copying, "_copy", stop)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Interrupt the main thread while another one copies, as a person does who presses Ctrl-C."""
    calls, plain_copy = iter(range(99)), copying._copy

    def interrupt(place: Any, values: Any) -> None:
        if next(calls) == number:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.2)
        plain_copy(place, values)

    monkeypatch.setattr(copying, "_copy", interrupt)


def test_who_interrupts_gets_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 3)
    model = net()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        transfer(state(), model)
    assert equal(snapshot(model), before)


def test_above_the_limit_of_undoing_who_interrupts_gets_the_model_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "UNDO_BYTES", 10)
    interrupt_at(monkeypatch, 3)
    model = net()
    with pytest.raises(KeyboardInterrupt):
        transfer(state(), model)
    assert equal(snapshot(model), state())


class InterruptedPool(ThreadPoolExecutor):
    """Threads of which the second is never started, since a person presses Ctrl-C before."""

    def submit(self, *arguments: Any, **options: Any) -> Any:
        if self._threads:
            raise KeyboardInterrupt
        return super().submit(*arguments, **options)


@pytest.mark.parametrize("limit", [10, copying.UNDO_BYTES])
def test_who_interrupts_before_all_threads_are_there_gets_the_model_as_it_was(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "UNDO_BYTES", limit)
    monkeypatch.setattr(copying, "ThreadPoolExecutor", InterruptedPool)
    model = net()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        transfer(state(), model)
    assert equal(snapshot(model), before)


def test_above_the_limit_of_undoing_the_error_says_that_the_model_is_half_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "UNDO_BYTES", 10)
    monkeypatch.setattr(copying, "_copy", lambda place, values: None)
    with pytest.raises(TransferError, match="; the model is half loaded: build it anew\n"):
        transfer(state(), net())


def test_errors_are_of_the_two_kinds_that_the_documentation_names() -> None:
    assert issubclass(SourceError, AdaptError)
    assert issubclass(TransferError, AdaptError)
