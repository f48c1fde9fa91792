"""A ranking that was cut, or whose candidate kills the process, goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ranked_models import INPUTS, OLD, Pyramid
from torch import nn

from autoadapt.errors import RankingError
from autoadapt.ranking import Ranked, Ranking, rank
from autoadapt.ranking.candidates import Candidate, find_candidates
from autoadapt.ranking.engines import Task, _tried_there
from autoadapt.ranking.parcels import packed


@pytest.mark.slow
def test_a_second_run_goes_on_where_the_first_one_stopped(tmp_path: Path) -> None:
    state, seen = tmp_path / "rank.jsonl", list[str]()
    candidates: dict[str, str | nn.Module] = {"one": Pyramid(2), "two": "timm:test_resnet", "three": "timm:nothing"}

    def stop(found: Ranked, done: int, _all: int) -> None:
        seen.append(found.source)
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rank(candidates, OLD, inputs=INPUTS, state=state, report=stop)
    took = json.loads(state.read_text().splitlines()[-1])["row"]["took"]
    with state.open("a") as file:
        file.write('{"what": "ended", "candi')  # a cut in the middle of a line
    found = rank(candidates, OLD, inputs=INPUTS, state=state)
    assert seen == ["one"]
    assert found.rows[0].took == took
    assert [bool(one.refused) for one in found.rows] == [False, False, True]
    again = rank(candidates, OLD, inputs=INPUTS, state=state)
    assert [one.took for one in again.rows[:2]] == [one.took for one in found.rows[:2]]
    other = rank({**candidates, "one": Pyramid(2)}, OLD, inputs=INPUTS, state=state)
    assert other.rows[0].took != took


def test_no_row_of_before_is_taken_for_that_of_another_module_source_or_file(tmp_path: Path) -> None:
    conv, file = nn.Conv2d(3, 4, 8), tmp_path / "mine.py"

    def prints() -> list[str]:
        given = {"a": nn.Sequential(conv, nn.ReLU()), "b": "timm:test_resnet", "mine": f"{file}:build"}
        return [candidate.fingerprint for candidate in find_candidates(given)]

    file.write_text("build = 1")
    first = prints()
    assert prints() == first
    assert find_candidates("timm:test_resnet")[0].fingerprint == ""
    file.write_text("build = 2")
    assert [old == new for old, new in zip(first, prints(), strict=True)] == [True, True, False]
    other = find_candidates({"a": nn.Sequential(conv, nn.GELU()), "b": "timm:test_vit"})
    with torch.no_grad():
        conv.weight.copy_(conv.weight.flip(0))
    turned = find_candidates({"a": nn.Sequential(conv, nn.ReLU())})
    assert not {one.fingerprint for one in (*other, *turned)} & set(first)


@pytest.mark.parametrize("source", ["{folder}/net.py:build", "own.net:build"])
def test_nor_for_that_of_code_which_imports_something_that_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    folder = tmp_path / "own"
    monkeypatch.syspath_prepend(str(tmp_path))
    files = {
        "net.py": "import torch, own.blocks\nfrom .near import deep\ndef build():\n    from own import late",
        "__init__.py": "",
        "blocks.py": "import own.net, not_there",
        "near/__init__.py": "",
        "near/deep.py": "from ..odd import *",
        "odd.py": "not python",
        "late.py": "",
        "unread.py": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def printed() -> str:
        return find_candidates(source.format(folder=folder))[0].fingerprint

    prints = [printed()]
    for name in files:
        (folder / name).write_text(files[name] + "\n# another one")
        prints.append(printed())
    assert all(prints)
    unread = [name for name, now, before in zip(files, prints[1:], prints, strict=False) if now == before]
    assert unread == ["unread.py"]


def test_a_journal_of_images_with_other_colours_or_another_old_backbone_is_refused(tmp_path: Path) -> None:
    images, state = torch.arange(8 * 3 * 64.0).reshape(8, 3, 8, 8), tmp_path / "rank.jsonl"
    old, candidates = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU()), {"one": nn.Conv2d(3, 5, 4, stride=4)}
    rank(candidates, old, data=[images], state=state)
    with pytest.raises(RankingError, match="is of another ranking") as caught:
        rank(candidates, nn.Sequential(old[0], nn.GELU()), data=[images.flip(1)], state=state)
    assert [fault.where for fault in caught.value.mismatches] == ["like", "images"]


class RustFaultError(BaseException):
    """As faults in Rust are in Python."""

    def __reduce__(self) -> tuple[object, ...]:
        return RustFaultError, (), {"cannot": "be unpickled"}.items()


@pytest.mark.parametrize("error", [RustFaultError, GeneratorExit, SystemExit])
def test_what_ends_no_loop_of_the_callers_is_the_row_of_the_candidate(error: type[BaseException]) -> None:
    found = rank({"raising": Raising(error)}, ["f32[B, 8, ceil(H/8), ceil(W/8)]"], inputs=INPUTS)
    assert found.rows[0].refused == f"{error.__name__}: out of memory"


class Unpacked(nn.Identity):
    """Raises in the process that unpacks it."""

    def __setstate__(self, state: object) -> None:
        raise KeyboardInterrupt("not here")


def test_a_worker_answers_whatever_a_candidate_raises_there() -> None:
    place: Any = SimpleNamespace(threads=1)
    task = Task("odd", pickle.dumps(Candidate("odd", Unpacked())))
    row = Ranked.model_validate_json(_tried_there(packed(place), task))
    assert (row.source, row.refused) == ("odd", "KeyboardInterrupt: not here")


class Raising(nn.Module):
    """Raises on real images only."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, stride=8)
        self.error: type[BaseException] | None = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.error is not None and not x.is_meta:
            raise self.error("out of memory\nand more")
        return self.conv(x)


@pytest.mark.slow
def test_what_a_candidate_itself_raises_is_its_row() -> None:
    found = rank(
        {"raising": Raising(RuntimeError), "fine": Pyramid(2)}, ["f32[B, 8, ceil(H/8), ceil(W/8)]"], inputs=INPUTS
    )
    said = "Raising raises at the given input: expected a forward pass, found RuntimeError: out of memory"
    assert [one.refused for one in found.rows] == [said, ""]


@pytest.mark.slow
def test_who_stops_a_candidate_again_and_again_may_still_go_on(tmp_path: Path) -> None:
    candidate, like = Raising(KeyboardInterrupt), ["f32[B, 8, ceil(H/8), ceil(W/8)]"]
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            rank({"slow": candidate}, like, inputs=INPUTS, state=tmp_path / "rank.jsonl")
    candidate.error = None
    assert rank({"slow": candidate}, like, inputs=INPUTS, state=tmp_path / "rank.jsonl")


KILLED = """
import os, signal, sys, torch
from torch import nn
from autoadapt.ranking import rank

class Deadly(nn.Identity):
    def forward(self, x):
        os.kill(os.getpid(), signal.SIGKILL)

rank({"deadly": Deadly()}, ["f32[B, 8, ceil(H/8), ceil(W/8)]"], inputs=torch.zeros(1, 3, 64, 64), state=sys.argv[1])
"""


class Deadly(nn.Identity):
    """Printed as the one of the script."""


@pytest.mark.slow
def test_a_candidate_that_kills_the_process_ends_it_twice_at_most(tmp_path: Path) -> None:
    state = tmp_path / "rank.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(state)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    begun = state.read_text().splitlines()[-1]

    def again() -> Ranking:
        candidates: dict[str, str | nn.Module] = {"deadly": Deadly(), "fine": Pyramid(2)}
        return rank(candidates, ["f32[B, 8, ceil(H/8), ceil(W/8)]"], inputs=INPUTS, state=state)

    copy = state.read_text() + begun + "\n"  # as if it had killed it once more
    assert "the process ended" not in str(again())
    state.write_text(copy)
    deadly, fine = again().rows
    assert deadly.refused == "the process ended 2 times while it was tried"
    assert not fine.refused


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond a size in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_runs_on_a_full_disk_do_not_count_as_ends_of_the_process(tmp_path: Path) -> None:
    state, like = tmp_path / "rank.jsonl", ["f32[B, 8, ceil(H/8), ceil(W/8)]"]
    candidates: dict[str, str | nn.Module] = {"one": nn.Conv2d(3, 4, 8, stride=8)}
    rank(candidates, like, inputs=INPUTS, state=state)
    first, begun, *_ = state.read_bytes().splitlines(keepends=True)
    state.unlink()
    for _ in range(2):
        with files_of_at_most(len(first + begun) + 9), pytest.raises(RankingError, match="nothing can be added"):
            rank(candidates, like, inputs=INPUTS, state=state)
        assert state.read_bytes() == first
    assert not rank(candidates, like, inputs=INPUTS, state=state).refused


@pytest.mark.slow
def test_a_state_of_another_ranking_is_not_taken_nor_changed(tmp_path: Path) -> None:
    state = tmp_path / "rank.jsonl"
    rank({"one": Pyramid(2)}, OLD, inputs=INPUTS, state=state)
    before = state.read_bytes()
    with pytest.raises(RankingError, match=r"is of another ranking(.|\n)*inputs(.|\n)*f32\[2, 3, 64, 64\]"):
        rank({"one": Pyramid(2)}, OLD, inputs=INPUTS.expand(2, -1, -1, -1), state=state)
    assert state.read_bytes() == before
    old, images, calibrated = Pyramid(4).eval(), torch.randn(8, 3, 16, 16), tmp_path / "calibrated.jsonl"
    rank({"one": Pyramid(2)}, old, data=[images], state=calibrated)
    with pytest.raises(RankingError, match=r"is of another ranking(.|\n)*images"):
        rank({"one": Pyramid(2)}, old, data=[images.flip(0) + 1], state=calibrated)
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\nwithout an end")
    with pytest.raises(RankingError, match="holds no ranking"):
        rank({"one": Pyramid(2)}, OLD, inputs=INPUTS, state=notes)
    assert notes.read_text() == "my notes\nwithout an end"
