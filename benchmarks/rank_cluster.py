"""How the time of `rank` falls with workers, by a workload of candidates that only sleep.

Run as `python -m benchmarks.rank_cluster`. Each candidate takes as long as it says and answers with a whole row; the
caller packs it, hands it out, reads the answer and writes the journal, as for real ones. So what is measured is the
loop and its one caller: a line for each number of workers, beside the time that workers without a caller would take,
and at the end how many workers one caller keeps busy. The workers are threads, which
cost nothing to reach.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autoadapt.ranking.candidates import Candidate
from autoadapt.ranking.engines import _Futures
from autoadapt.ranking.journals import Journal
from autoadapt.ranking.parcels import Parcel
from autoadapt.ranking.results import Ranked
from autoadapt.ranking.rounds import carried_out

ROW = Ranked(source="", parameters=11_000_000, kept=0.98, adapter_parameters=590_000, multiply_adds=1_800_000_000,
             seconds=0.031, weight_bytes=47_000_000, agreement=0.71, divergence=0.9, r2=0.66)  # fmt: skip


def slept(seconds: float, name: str) -> str:
    """What a worker does."""
    time.sleep(seconds)
    return ROW.model_copy(update={"source": name}).model_dump_json()


@dataclass(frozen=True)
class Sleepers:
    """Threads that sleep."""

    pool: ThreadPoolExecutor
    slots: int
    seconds: dict[str, float]

    def share(self, parcel: Parcel) -> None:
        """Threads share everything."""

    def submit(self, shared: None, task: Any) -> Future[str]:
        """Sleep for as long as the candidate takes."""
        return self.pool.submit(slept, self.seconds[task.name], task.name)

    def first(self, running: Iterable[Future[str]]) -> Future[str]:
        """One that has ended."""
        return next(iter(wait(list(running), return_when=FIRST_COMPLETED).done))

    def answer(self, future: Future[str]) -> str:
        """Its JSON."""
        return future.result()

    def clear(self, shared: None, running: Iterable[Future[str]]) -> None:
        """Nothing is left."""


def wall(workers: int, seconds: dict[str, float], folder: Path) -> float:
    """Seconds of a whole run."""
    candidates = [Candidate(name, name) for name in seconds]
    place: Any = SimpleNamespace(images=0)
    with ThreadPoolExecutor(workers) as pool:
        started = time.perf_counter()
        journal, engine = Journal(folder / f"{workers}.jsonl", {}), _Futures(Sleepers(pool, workers, seconds))
        assert len(list(carried_out(candidates, place, journal, engine))) == len(candidates)
        return time.perf_counter() - started


def least(workers: int, seconds: Iterable[float]) -> float:
    """What workers would take that are handed the next candidate at once, in the same order."""
    free = [0.0] * workers
    for one in seconds:
        free.sort()
        free[0] += one
    return max(free)


def main() -> None:
    """Print a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=0.5, help="mean of a candidate, from half to twice of it")
    arguments = parser.parse_args()
    draw = random.Random(0)
    spread = [0.5 + 1.5 * draw.random() ** 2 for _ in range(arguments.candidates)]
    scale = arguments.seconds * len(spread) / sum(spread)
    seconds = {f"timm:model_{number}": scale * one for number, one in enumerate(spread)}
    print(f"{len(seconds)} candidates of {arguments.seconds} s in the mean")
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2, 8, 64):
            found, best = wall(workers, seconds, Path(folder)), least(workers, seconds.values())
            print(f"{workers:>3} workers  {found:7.2f} s  {found / best:.3f} times that without a caller", flush=True)
        idle = dict.fromkeys(seconds, 0.0)
        each = wall(64, idle, Path(tempfile.mkdtemp(dir=folder))) / len(idle)
    print(f"the caller takes {1000 * each:.1f} ms for a candidate: candidates of 5 s keep {5 / each:.0f} workers busy")


if __name__ == "__main__":
    main()
