"""Bounded children: a function in a process of its own, whose time and memory are watched."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MOST_SECONDS = 10.0
MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """How a child ended."""

    said: str
    """The error that it ended with, its class first; what it returned; or what it was killed for."""
    seconds: float
    """Of the processor."""
    bytes: int
    """Of resident memory beyond what it began with, at most."""


def run_bounded(where: str, name: str, folder: Path) -> Outcome:
    """Run `module.TABLE[name](folder)` where `where` is `module:TABLE`; killed beyond the limits."""
    ours, theirs = multiprocessing.Pipe()
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["autoadapt", "timm", "file_kinds", where.partition(":")[0]])
    process = context.Process(target=_run, args=(where, name, folder, theirs))
    process.start()
    theirs.close()
    try:
        return _watched(process, ours)
    finally:
        process.kill()
        process.join()


def _run(where: str, name: str, folder: Path, end: Connection) -> None:
    import importlib
    import warnings

    from autoadapt.errors import AdaptError

    module, _, table = where.partition(":")
    call = getattr(importlib.import_module(module), table)[name]
    warnings.simplefilter("ignore")
    end.send("ready")
    try:
        end.send(f"returned a {type(call(folder)).__name__}")
    except AdaptError as error:
        end.send(f"AdaptError {type(error).__name__}: {error}")
    except BaseException as error:
        end.send(f"{type(error).__name__}: {error}")


def _watched(process: Any, end: Connection) -> Outcome:
    assert end.poll(120), "the child did not begin"
    end.recv()
    began, cpu, base, most, said = time.monotonic(), _seconds(process.pid), _resident(process.pid), 0, ""
    while not said:
        try:
            said = end.recv() if end.poll(0.005) else ""
        except EOFError:
            return Outcome(f"died with exit code {_exit_code(process)}", 0, most)
        most = max(most, _resident(process.pid) - base)
        used = _seconds(process.pid) - cpu
        if not said and most > MOST_BYTES:
            said = "killed: too much memory"
        if not said and (used > MOST_SECONDS or time.monotonic() - began > 6 * MOST_SECONDS):
            said = "killed: too much time"
    return Outcome(said, _seconds(process.pid) - cpu, most)


def _exit_code(process: Any) -> int | None:
    process.join(10)
    code: int | None = process.exitcode
    return code


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:  # it has just died, as the end of its pipe will tell
        return 0


def _seconds(pid: int) -> float:
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except FileNotFoundError:
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


BEYOND: dict[str, Any] = {"memory": lambda folder: bytearray(3 << 29), "error": lambda folder: 1 / 0}
"""What must not pass."""
