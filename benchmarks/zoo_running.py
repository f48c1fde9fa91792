"""Processes that try the models of the zoo benchmark, one after the other."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from benchmarks import modalities
from benchmarks.zoo_judging import said, trial
from benchmarks.zoo_pairs import pair_trial

__all__ = ["rows_of"]

SECONDS_EACH = 300


def serve(connection: Connection, family: str, like: str) -> None:
    """A worker: names in, rows out."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    while (name := connection.recv()) is not None:
        try:
            is_pair = family in modalities.FAMILIES
            connection.send(pair_trial(family, name) if is_pair else trial(family, name, like))
        except Exception as error:  # a benchmark of strangers' code: whatever it raises is a row
            connection.send({"name": name, "outcome": "wrong", "reason": said(error)})


class Worker:
    """A process that tries one model after the other, and is started anew when one takes too long."""

    def __init__(self, family: str, like: str) -> None:
        self.arguments = (family, like)
        self.start()

    def start(self) -> None:
        self.name, self.since = "", 0.0
        self.connection, other = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=serve, args=(other, *self.arguments), daemon=True)
        self.process.start()

    def give(self, name: str) -> None:
        self.name, self.since = name, time.monotonic()
        self.connection.send(name)

    def restart(self, reason: str) -> dict[str, Any]:
        row = {"name": self.name, "outcome": "refused", "reason": reason}
        self.process.kill()
        self.start()
        return row


def rows_of(names: list[str], family: str, like: str, processes: int) -> Iterator[dict[str, Any]]:
    """The rows of all names, as they are done."""
    queue = list(reversed(names))
    workers = [Worker(family, like) for _ in range(min(processes, len(names)))]
    for worker in workers:
        worker.give(queue.pop())
    while busy := [worker for worker in workers if worker.name]:
        ready = wait([worker.connection for worker in busy], timeout=1)
        for worker in busy:
            if worker.connection in ready:
                try:
                    yield worker.connection.recv()
                    worker.name = ""
                except EOFError:
                    yield worker.restart("the process died (memory)")
            elif time.monotonic() - worker.since > SECONDS_EACH:
                yield worker.restart(f"took more than {SECONDS_EACH} s")
            if not worker.name and queue:
                worker.give(queue.pop())
