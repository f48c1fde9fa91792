"""Clusters: Dask or Ray as the environment names them, else with workers on this machine, while a block runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from autoadapt.errors import Mismatch, RankingError


@contextlib.contextmanager
def dask_workers(jobs: int | None = None) -> Iterator[None]:
    """The workers of the scheduler at DASK_SCHEDULER_ADDRESS; else processes of this machine, of one thread each.

    Args:
        jobs: How many processes; as many as there are cores where left out or -1.

    Raises:
        RankingError: Dask is not installed.
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
        if address is None:
            options = {"threads_per_worker": 1, "dashboard_address": None}
            address = stack.enter_context(LocalCluster(n_workers=_cores(jobs), **options))
        client = stack.enter_context(Client(address))
        stack.enter_context(joblib.parallel_config("dask", client=client))
        yield


@contextlib.contextmanager
def ray_workers(jobs: int | None = None) -> Iterator[None]:
    """The workers of the cluster at RAY_ADDRESS; else processes of this machine.

    Args:
        jobs: How many processes; as many as there are cores where left out or -1.

    Raises:
        RankingError: Ray is not installed.
    """
    with _installed("ray"):
        import joblib
        import ray
        from ray.util.joblib import register_ray
    local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": _cores(jobs), "include_dashboard": False}
    ray.init(log_to_driver=False, **local)
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
