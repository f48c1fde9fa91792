"""Candidates are tried by several processes, and a process that dies costs its own candidate alone."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import deadly_models
import joblib
import pytest
import torch
from guests import guest
from markdown_pages import ROOT
from ranked_models import INPUTS, OLD, Pyramid
from torch import nn

from autoadapt.errors import RankingError
from autoadapt.ranking import Ranked, Ranking, rank
from autoadapt.ranking.candidates import find_candidates
from autoadapt.ranking.clusters import dask_workers, ray_workers
from autoadapt.ranking.engines import Lost, Outcome, Task, find_engine
from autoadapt.ranking.journals import Journal
from autoadapt.ranking.rounds import carried_out
from autoadapt.ranking.trials import Place

NAMES = [f"deadly_models:{name}" for name in ("two", "deadly", "three", "deadly_once")]
ALIVE = [name for name in NAMES if name != "deadly_models:deadly"]
LIKE = ["f32[B, 8, ceil(H/4), ceil(W/4)]"]


class FakeEngine:
    """Loses candidates as it is told, a letter for each time that one comes by.

    o gives a row, x is a death, and n one that may have been a neighbour's.
    """

    def __init__(self, fates: dict[str, str], *, again: bool = True) -> None:
        self.fates = {name: iter(fate) for name, fate in fates.items()}
        self.again = again
        self.rounds = list[list[str]]()

    def outcomes(self, place: Place, tasks: Iterable[Task]) -> Iterator[Outcome]:
        self.rounds.append([])
        for task in tasks:
            self.rounds[-1].append(task.name)
            fate = next(self.fates[task.name])
            lost = Lost("SIGKILL(-9)", self.again, neighbours=fate == "n")
            yield task, Ranked(source=task.name) if fate == "o" else lost


def carried(engine: FakeEngine, state: Path | None = None, until: float = float("inf")) -> dict[str, str]:
    place: Any = SimpleNamespace(images=0)
    candidates = find_candidates([f"timm:{name}" for name in ("a", "b", "c")])
    rows = carried_out(candidates, place, Journal(state, {}), engine, until=until)
    return {row.source: row.refused for row in rows}


def test_a_lost_candidate_is_tried_once_more_alone_and_then_given_up(tmp_path: Path) -> None:
    engine = FakeEngine({"timm:a": "xo", "timm:b": "xx", "timm:c": "o"})
    said = "its worker died each time it was tried: SIGKILL(-9)"
    assert carried(engine, tmp_path / "s.jsonl") == {"timm:a": "", "timm:b": said, "timm:c": ""}
    assert engine.rounds == [["timm:a", "timm:b", "timm:c"], ["timm:a"], ["timm:b"]]
    again = FakeEngine({"timm:b": "o"})
    assert carried(again, tmp_path / "s.jsonl") == {"timm:a": "", "timm:b": "", "timm:c": ""}
    assert again.rounds == [["timm:b"]]


def test_a_death_that_may_be_a_neighbours_leaves_a_candidate_its_two_tries() -> None:
    engine = FakeEngine({"timm:a": "nxo", "timm:b": "nxx", "timm:c": "no"})
    said = "its worker died each time it was tried: SIGKILL(-9)"
    assert carried(engine) == {"timm:a": "", "timm:b": said, "timm:c": ""}
    assert engine.rounds[1:] == [["timm:a"], ["timm:a"], ["timm:b"], ["timm:b"], ["timm:c"]]


def test_a_lost_candidate_is_not_tried_once_more_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(9))  # looked at before each candidate, before the end, and before each one that was lost
    monkeypatch.setattr("autoadapt.ranking.rounds.time", SimpleNamespace(monotonic=lambda: next(clock)))
    engine = FakeEngine({"timm:a": "xo", "timm:b": "xo", "timm:c": "o"})
    assert carried(engine, until=4) == {"timm:a": "", "timm:c": ""}
    assert engine.rounds[1:] == [["timm:a"]]


def test_what_an_engine_has_tried_again_itself_is_not_tried_once_more() -> None:
    engine = FakeEngine({"timm:a": "x", "timm:b": "o", "timm:c": "o"}, again=False)
    assert carried(engine)["timm:a"]
    assert len(engine.rounds) == 1


def test_the_engine_is_the_one_that_joblib_is_told_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_engine(None) is None
    assert find_engine(1) is None
    assert type(find_engine(2)).__name__ == "_Processes"
    with joblib.parallel_config("loky", n_jobs=3):
        assert getattr(find_engine(None), "jobs", 0) == 3
    with joblib.parallel_config("threading", n_jobs=3):
        assert find_engine(None) is None  # threads share one generator of random numbers
    for wrong in (0, True, "2"):
        with pytest.raises(RankingError, match=r"rank takes no such jobs(.|\n)*jobs=2"):
            find_engine(wrong)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "joblib.parallel", None)
    with pytest.raises(RankingError, match=r"joblib(.|\n)*not installed(.|\n)*\[cluster\]"):
        find_engine(2)


@contextlib.contextmanager
def two_processes() -> Iterator[None]:
    with joblib.parallel_config("loky", n_jobs=2):
        yield


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(deadly_models.MARK, str(tmp_path / "mark"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [Path.cwd(), Path.cwd() / "tests"])))
    return tmp_path / "mark"


def judged(names: list[str], state: Path | None = None) -> Ranking:
    torch.manual_seed(0)
    old, linear = Pyramid(8).eval(), nn.Linear(8, 6)
    images = torch.randn(16, 3, 32, 32)

    def head(maps: list[torch.Tensor]) -> torch.Tensor:
        return 50 * linear(maps[-1].mean((2, 3)))

    return rank(names, old, inputs=images[:1], data=images.split(8), head=head, allow=["deadly_models"], state=state)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "workers",
    [
        two_processes,
        pytest.param(lambda: dask_workers(2), id="dask", marks=pytest.mark.guest),
        pytest.param(lambda: ray_workers(2), id="ray", marks=pytest.mark.guest),
    ],
)
def test_workers_that_die_cost_their_candidate_alone_and_the_others_are_as_in_one_process(
    workers: Any, mark: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if (name := request.node.callspec.id) != "two_processes":
        guest({"dask": "distributed"}.get(name, name))
    with workers():
        found = judged(NAMES, tmp_path / "state.jsonl")
    assert mark.exists(), "the worker of deadly_once was not killed"
    rows = {row.source: row for row in found.rows}
    assert list(rows) == NAMES
    assert "died each time" in rows.pop("deadly_models:deadly").refused
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = judged(ALIVE)
        again = judged(ALIVE, tmp_path / "state.jsonl")  # of one process, and nothing is tried
    finally:
        torch.set_num_threads(threads)
    assert again.rows == tuple(rows[name] for name in ALIVE)
    measured = {"seconds", "took"}
    assert [row.model_dump(exclude=measured) for row in rows.values()] == [
        pytest.approx(row.model_dump(exclude=measured))  # memory that lies elsewhere is added up otherwise
        for row in alone.rows
    ]


@pytest.mark.guest
@pytest.mark.filterwarnings("ignore")
def test_a_worker_of_dask_may_take_long_to_come_back() -> None:
    guest("distributed")
    import dask
    from distributed import get_client

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}), dask_workers(1):
        client = get_client()
        [(address, first)] = client.run(os.getpid).items()
        os.kill(first, signal.SIGKILL)
        until(lambda: address not in client.ncores(), seconds=60)
        assert client.submit(os.getpid, pure=False).result(timeout=100) != first


@pytest.mark.guest
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_does_not_answer_is_told_with_the_variable_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest("distributed")
    import dask

    told = r"no cluster answers(.|\n)*DASK_SCHEDULER_ADDRESS(.|\n)*tcp://127.0.0.1:9(.|\n)*unset DASK_SCHEDULER_ADDRESS"
    with (
        dask.config.set({"scheduler-address": "tcp://127.0.0.1:9", "distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(RankingError, match=told),
        dask_workers(2),
    ):
        pass
    guest("ray")
    import ray

    def refused(**options: object) -> None:
        raise ConnectionError("ray could not be reached")

    monkeypatch.setattr(ray, "init", refused)  # which tries for half an hour
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(RankingError, match=r"RAY_ADDRESS(.|\n)*127.0.0.1:9: ConnectionError"), ray_workers(2):
        pass


@pytest.mark.guest
@pytest.mark.filterwarnings("ignore")
def test_ray_starts_workers_of_its_own_where_another_cluster_has_left_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest("ray")
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _folder: "127.0.0.1:9")
    with ray_workers(2):
        assert ray.cluster_resources()["CPU"] == 2


def commands() -> list[str]:
    """What the manual shows for a shell."""
    page = (ROOT / "docs/more-than-one-machine.md").read_text("utf-8")
    return [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        for line in block.split("\n")
        if line.startswith("autoadapt")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [pytest.param(line, marks=[pytest.mark.guest] if "--backend" in line else []) for line in commands()],
)
def test_the_commands_of_the_manual_run_with_two_local_workers(command: str, mark: Path, tmp_path: Path) -> None:
    backend = command.partition("--backend ")[2]
    if backend:
        guest({"dask": "distributed"}.get(backend, backend))
    found = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "test_resnet" in found.stdout
    assert "1 thread" in found.stdout


class Locked(Pyramid):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__(2)
        self.lock = threading.Lock()


@pytest.mark.slow
def test_a_module_travels_as_it_is_and_one_that_cannot_is_a_row_that_says_so() -> None:
    found = rank({"mine": Pyramid(3), "locked": Locked()}, OLD, inputs=INPUTS, jobs=2)
    mine, locked = found.rows
    assert (mine.refused, mine.parameters) == ("", sum(p.numel() for p in Pyramid(3).parameters()))
    assert locked.remedy == "jobs=1"
    assert found.threads == 1


@pytest.mark.slow
def test_who_stops_it_keeps_what_is_done_and_goes_on(tmp_path: Path) -> None:
    state, names = tmp_path / "state.jsonl", [name for name in NAMES if "deadly_models:d" not in name]

    def stop(found: Ranked, done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rank(names, OLD, inputs=INPUTS, allow=["deadly_models"], jobs=2, state=state, report=stop)
    assert state.read_text().count('"what": "ended"') == 1
    assert '"begun"' not in state.read_text()
    found = rank(names, OLD, inputs=INPUTS, allow=["deadly_models"], jobs=2, state=state)
    assert not found.refused


CALLER = """
from ranked_models import INPUTS, OLD

from autoadapt.ranking import rank

if __name__ == "__main__":
    rank(["deadly_models:two", "deadly_models:endless"], OLD, inputs=INPUTS, allow=["deadly_models"], jobs=2)
"""


@pytest.mark.slow
def test_a_process_whose_caller_was_killed_ends_in_the_middle_of_its_candidate(mark: Path, tmp_path: Path) -> None:
    script = tmp_path / "caller.py"
    script.write_text(CALLER)
    caller = subprocess.Popen([sys.executable, script])
    try:
        until(lambda: mark.exists() and mark.read_text() != "", seconds=120)
    finally:
        caller.kill()
        caller.wait()
    until(lambda: not alive(int(mark.read_text())), seconds=30)


def until(holds: Callable[[], bool], seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"not within {seconds} s"
        time.sleep(0.1)


def alive(process: int) -> bool:
    try:
        return not Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].startswith(" Z")
    except FileNotFoundError:
        return False
