"""Processes of torch.distributed as children, each with a number; they meet over a file, so that no port is taken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path


def start(script: Path, names: Sequence[str], count: int, folder: Path) -> list[subprocess.Popen[bytes]]:
    """Start `script names... rank count folder` for each rank; what they import is found as here."""
    here = os.pathsep.join([str(script.parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
    (folder / f"rendezvous{count}").unlink(missing_ok=True)
    return [
        subprocess.Popen(
            [sys.executable, script, *names, str(rank), str(count), folder], env=environment, stderr=subprocess.PIPE
        )
        for rank in range(count)
    ]


def ended(children: Sequence[subprocess.Popen[bytes]], seconds: float = 240) -> list[int]:
    """Exit codes of all; those that did not end are killed, and what they said fails the test."""
    try:
        told = [child.communicate(timeout=seconds)[1].decode() for child in children]
    finally:
        for child in children:
            child.kill()
    assert all(child.returncode <= 0 for child in children), "\n".join(told)
    return [child.returncode for child in children]


def meet(rank: int, count: int, folder: Path, seconds: float = 120) -> None:
    """Join the others, in a child."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    method = f"file://{folder}/rendezvous{count}"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=count, timeout=timedelta(seconds=seconds))
