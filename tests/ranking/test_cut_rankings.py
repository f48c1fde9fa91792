"""A ranking that was cut, or whose candidate kills the process, goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ranked_models import INPUTS, OLD, Pyramid
from torch import nn

from autoadapt.errors import RankingError
from autoadapt.ranking import Ranked, Ranking, rank


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


@pytest.mark.slow
def test_a_candidate_that_kills_the_process_ends_it_twice_at_most(tmp_path: Path) -> None:
    state = tmp_path / "rank.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(state)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    begun = state.read_text().splitlines()[-1]

    def again() -> Ranking:
        candidates: dict[str, str | nn.Module] = {"deadly": nn.Identity(), "fine": Pyramid(2)}
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
