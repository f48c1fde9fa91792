"""Engines: who tries the candidates beside the caller: processes of joblib, the workers of Dask or of Ray.

A candidate travels as its name and comes back as JSON; what all of them need goes to each worker once. joblib's own
backends for Dask and Ray are not used for the loop: the first waits for ever for a task whose worker died, the second
gives nothing back before all is done.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from autoadapt.errors import Mismatch, RankingError
from autoadapt.files.reading import one_line
from autoadapt.ranking.candidates import Candidate
from autoadapt.ranking.parcels import Parcel, packed, pickled, unpacked
from autoadapt.ranking.results import Ranked
from autoadapt.ranking.trials import Place, tried
from autoadapt.showing.progress import progress
from autoadapt.versions import install_line


@dataclass(frozen=True)
class Lost:
    """A worker that ended without an answer.

    Attributes:
        said: How it ended.
        again: Whether the candidate may be tried once more; Dask may have done so by itself.
        neighbours: Whether others ran beside it, any of which may have been the one that ended them all.
    """

    said: str
    again: bool = True
    neighbours: bool = False


@dataclass(frozen=True)
class Task:
    """A candidate on its way to a worker.

    Attributes:
        name: Of the candidate.
        content: The candidate as a pickle: a name, or a module where the caller gave one.
    """

    name: str
    content: bytes

    @classmethod
    def of(cls, candidate: Candidate) -> Task:
        """Pack a candidate.

        Raises:
            RankingError: It is a module that cannot be pickled.
        """
        named = isinstance(candidate.what, str)
        return cls(candidate.name, pickle.dumps(candidate) if named else pickled(candidate, candidate.name))


Outcome: TypeAlias = "tuple[Task, Ranked | Lost]"


class Engine(Protocol):
    """Somebody who tries candidates elsewhere."""

    def outcomes(self, place: Place, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """What came of each, in the order in which they end; the next one is asked for where a worker is free."""


def find_engine(jobs: int | None) -> Engine | None:
    """The backend of `joblib.parallel_config`, else processes of this machine; None where the caller works alone.

    Args:
        jobs: How many candidates are tried at once; what `parallel_config` says where left out, -1 for all cores.

    Raises:
        RankingError: joblib is not installed, or the number counts nothing.
    """
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs == 0):
        raise RankingError("rank takes no such jobs", [Mismatch("jobs", "a number, or -1", repr(jobs)[:40], "jobs=2")])
    if jobs == 1 or (jobs is None and "joblib" not in sys.modules):
        return None
    try:
        from joblib.parallel import get_active_backend
    except ImportError as error:
        fault = Mismatch("jobs", "joblib", "it is not installed", install_line("cluster"))
        raise RankingError("nothing to start processes with", [fault]) from error
    backend, told = get_active_backend()
    asked = told if jobs is None else jobs
    match type(backend).__name__:
        case "DaskDistributedBackend":
            return _Futures(_Dask(backend.client, asked))
        case "RayBackend":
            return _Futures(_Ray(asked))
        case _ if getattr(backend, "uses_threads", False) or backend.effective_n_jobs(asked) == 1:
            return None  # threads share one generator of random numbers
        case _:
            return _Processes(backend.effective_n_jobs(asked))


_trying = threading.Lock()
"""Trials of one process come one after the other, also where its worker has several threads."""


def _tried_there(parcel: Parcel, task: Task) -> str:
    """In a worker: what `tried` finds, as JSON."""
    with _trying, progress(lambda _event: None):
        place: Place = unpacked(parcel)
        before = torch.get_num_threads()
        torch.set_num_threads(place.threads)
        try:
            return json.dumps(_row(task, place).model_dump(mode="json"))
        finally:
            torch.set_num_threads(before)


def _row(task: Task, place: Place) -> Ranked:
    """What `tried` finds; what a candidate raises by itself in a worker is no Ctrl-C of the caller's."""
    try:
        return tried(pickle.loads(task.content), place)
    except BaseException as error:
        return Ranked(source=task.name, refused=one_line(error))


@dataclass(frozen=True)
class _Processes:
    """A backend of joblib; with loky, the one that it takes by default, a death ends all processes and is told."""

    jobs: int

    def outcomes(self, place: Place, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """What came of each; where a process dies, all that were running are lost, and new processes take the rest."""
        import joblib
        from joblib.externals.loky import BrokenProcessPool

        parcel, waiting = packed(place), enumerate(tasks)
        # As many are handed out as run; what every one of them needs is mapped into memory, copied where written to.
        options = {"pre_dispatch": "n_jobs", "batch_size": 1, "max_nbytes": 1, "mmap_mode": "c"}
        while True:
            running = dict[int, Task]()
            run = joblib.Parallel(self.jobs, return_as="generator_unordered", **options)
            try:
                with _closed(run(_handed_out(waiting, running, parcel))) as answers:
                    for number, text in answers:
                        yield running.pop(number), Ranked.model_validate_json(text)
                return
            except BrokenProcessPool as error:
                lost = Lost(one_line(error), neighbours=len(running) > 1)
                yield from ((task, lost) for task in list(running.values()))


def _tried_on_dask(task: Task) -> str:
    from distributed import get_worker

    return _tried_there(get_worker().autoadapt_parcel, task)


@contextlib.contextmanager
def _closed(answers: Generator[Any, None, None]) -> Iterator[Generator[Any, None, None]]:
    """Answers, those that nobody waits for given up without the warning of joblib."""
    try:
        yield answers
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers.close()


def _handed_out(
    waiting: Iterator[tuple[int, Task]], running: dict[int, Task], parcel: Parcel
) -> Iterator[tuple[Any, tuple[object, ...], dict[str, object]]]:
    """The calls of joblib, each noted as it is asked for."""
    for number, task in waiting:
        running[number] = task
        yield _numbered, (number, parcel, task, os.getpid()), {}


def _numbered(number: int, parcel: Parcel, task: Task, caller: int) -> tuple[int, str]:
    if os.getpid() != caller:  # a backend of somebody else may work in the caller's process
        _end_with_the_parent()
    return number, _tried_there(parcel, task)


@functools.cache
def _end_with_the_parent() -> None:
    """In a process of joblib: end within a second where the caller was killed, in the middle of a candidate too.

    Without this it would try its candidate to the end and wait for another one for five minutes.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class _Futures:
    """A cluster that gives a future for each task, whose workers answer in any order."""

    cluster: _Dask | _Ray

    def outcomes(self, place: Place, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """What came of each; a worker that dies is told of its candidate alone."""
        shared, running = self.cluster.share(packed(place)), dict[Any, Task]()
        waiting = iter(tasks)
        task = next(waiting, None)
        try:
            while task is not None or running:
                if task is not None and len(running) < self.cluster.slots:
                    running[self.cluster.submit(shared, task)] = task
                    task = next(waiting, None)
                    continue
                future = self.cluster.first(running)
                done, answer = running.pop(future), self.cluster.answer(future)
                del future  # an answer that nobody holds is not worked out again when its worker dies
                yield done, answer if isinstance(answer, Lost) else Ranked.model_validate_json(answer)
        finally:
            self.cluster.clear(shared, running)


@dataclass(frozen=True)
class _Dask:
    """Workers of a Dask cluster."""

    client: Any
    jobs: int | None

    @property
    def slots(self) -> int:
        """As asked, else as many as there are threads of workers now."""
        return self.jobs if self.jobs is not None and self.jobs > 0 else max(1, sum(self.client.ncores().values()))

    def share(self, parcel: Parcel) -> Any:
        """Give it to every worker, also to those that come; what is scattered dies with the worker that has it.

        Returns:
            What stands for it among the arguments of a task, so that each worker gets it once.
        """
        from distributed import WorkerPlugin

        class Keep(WorkerPlugin):  # type: ignore[misc]
            """Keeps the parcel on a worker."""

            name = parcel.key

            def setup(self, worker: Any) -> None:
                worker.autoadapt_parcel = parcel

        self.client.register_plugin(Keep())
        return parcel.key

    def submit(self, shared: Any, task: Task) -> Any:
        """A task that gives its own answer, also where another had the same arguments."""
        return self.client.submit(_tried_on_dask, task, pure=False)

    def first(self, running: Iterable[Any]) -> Any:
        """One that has ended, be it well or not."""
        from distributed import as_completed

        return next(as_completed(list(running)))

    def answer(self, future: Any) -> str | Lost:
        """Its JSON; Dask tries again on other workers by itself, as often as its scheduler is told to."""
        from distributed.scheduler import KilledWorker

        try:
            text: str = future.result()
        except KilledWorker as error:
            return Lost(one_line(error), again=error.allowed_failures < 1)
        return text

    def clear(self, shared: Any, running: Iterable[Any]) -> None:
        """What runs is ended by its worker, what waits is not begun."""
        self.client.cancel(list(running))
        self.client.unregister_worker_plugin(shared)


@dataclass(frozen=True)
class _Ray:
    """Workers of a Ray cluster, one core each."""

    jobs: int | None

    @property
    def slots(self) -> int:
        """As asked, else as many as the cluster has cores now."""
        import ray

        if not ray.is_initialized():
            ray.init()
        cores = int(ray.cluster_resources().get("CPU", 1))
        return self.jobs if self.jobs is not None and self.jobs > 0 else cores

    def share(self, parcel: Parcel) -> Any:
        """Put it into the object store."""
        import ray

        return ray.put(parcel)

    def submit(self, shared: Any, task: Task) -> Any:
        """A task that is not tried again by itself."""
        import ray

        return ray.remote(num_cpus=1, max_retries=0)(_tried_there).remote(shared, task)

    def first(self, running: Iterable[Any]) -> Any:
        """One that has ended, be it well or not."""
        import ray

        return ray.wait(list(running), num_returns=1)[0][0]

    def answer(self, future: Any) -> str | Lost:
        """Its JSON."""
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

        try:
            text: str = ray.get(future)
        except (NodeDiedError, OutOfMemoryError, WorkerCrashedError) as error:
            return Lost(one_line(error))
        return text

    def clear(self, shared: Any, running: Iterable[Any]) -> None:
        """End what nobody waits for."""
        import ray

        for future in running:
            ray.cancel(future, force=True)
