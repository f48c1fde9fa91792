"""Clusters: Dask or Ray as the environment names them, else with workers on this machine, while a block runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from autoadapt.errors import Mismatch, RankingError
from autoadapt.files.reading import one_line


@contextlib.contextmanager
def dask_workers(jobs: int | None = None) -> Iterator[None]:
    """The workers of the scheduler at DASK_SCHEDULER_ADDRESS; else processes of this machine, of one thread each.

    Args:
        jobs: How many processes; as many as there are cores where left out or -1.

    Raises:
        RankingError: Dask is not installed, or no scheduler answers at that address.
    """
    with _installed("dask[distributed]"):
        import dask
        import joblib
        from distributed import Client, LocalCluster
    # A task whose worker dies is not tried on three more workers: `rank` tries it once more, alone. A worker that is
    # started again imports torch before it answers, for which 15 seconds are too few on a busy machine or a slow disk:
    # the cluster would give it up for good, and `rank` wait for ever for one without workers.
    told = {"distributed.scheduler.allowed-failures": 0, "distributed.deploy.lost-worker-timeout": "1h"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(told))
        address = dask.config.get("scheduler-address", None)
        options = {"threads_per_worker": 1, "dashboard_address": None}
        cluster = address or stack.enter_context(LocalCluster(n_workers=_cores(jobs), **options))
        with _reached("DASK_SCHEDULER_ADDRESS", address):
            client = stack.enter_context(Client(cluster))
        stack.enter_context(joblib.parallel_config("dask", client=client))
        yield


@contextlib.contextmanager
def ray_workers(jobs: int | None = None) -> Iterator[None]:
    """The workers of the cluster at RAY_ADDRESS; else processes of this machine.

    Args:
        jobs: How many processes; as many as there are cores where left out or -1.

    Raises:
        RankingError: Ray is not installed, or no cluster answers at that address.
    """
    with _installed("ray"):
        import joblib
        import ray
        from ray.util.joblib import register_ray
    address = os.environ.get("RAY_ADDRESS")
    # "local" begins workers of its own also where a cluster of this machine runs, or has run and left its address.
    local = {"address": "local", "num_cpus": _cores(jobs), "include_dashboard": False}
    with _reached("RAY_ADDRESS", address):
        ray.init(log_to_driver=False, **({} if address else local))
    try:
        register_ray()
        with joblib.parallel_config("ray", n_jobs=-1):
            yield
    finally:
        ray.shutdown()


def _cores(jobs: int | None) -> int:
    return jobs if jobs is not None and jobs > 0 else os.cpu_count() or 1


@contextlib.contextmanager
def _installed(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        fault = Mismatch(
            "--backend", f"{package} and joblib", str(error), f'pip install "{package}" joblib cloudpickle'
        )
        raise RankingError(f"{package} is not installed", [fault]) from error


@contextlib.contextmanager
def _reached(variable: str, address: str | None) -> Iterator[None]:
    """Say which variable names a cluster that does not answer; None where none is named."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if not address:
            raise
        found = f"{address}: {one_line(error)}"
        fault = Mismatch(variable, "the address of a cluster that runs", found, f"unset {variable}")
        raise RankingError("no cluster answers", [fault]) from error
