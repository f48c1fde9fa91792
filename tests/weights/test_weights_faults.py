"""Planted faults in files and after the first write: each leaves the model as it was, bit for bit."""

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
from refused_transfers import net, refusal, state
from safetensors.torch import save_file
from torch import nn
from weights_models import equal, snapshot

from autoadapt.errors import AdaptError, SourceError, TransferError
from autoadapt.weights import copying, transfer, transferring
from autoadapt.weights.slots import refuse_unwritable

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
