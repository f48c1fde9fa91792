"""Children: thorough checks in a process of their own, which may hang, run out of memory or crash without harm.

The child gets the module pickled, in a file of a folder that only this user can read. It is started anew rather than
forked, since a fork would share the caller's threads and locks; and unlike `multiprocessing` it does not import the
caller's main script, which need not be safe to run twice.

The child prints one line per event: `?name` as a check begins, the row of the check as JSON as it ends, and `!reason`
if the module could not be loaded.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import multiprocessing.spawn
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.verification.checks import THOROUGH_CHECKS
from autoadapt.adapting.verification.outcomes import checked
from autoadapt.adapting.verification.results import Check, failed
from autoadapt.adapting.verification.sessions import Session, said
from autoadapt.contracts.allocations import in_words
from autoadapt.errors import Mismatch
from autoadapt.showing.progress import Tell

_PROGRAM = (
    "import json, sys; asked = json.loads(sys.argv[1]); sys.path[:] = asked['path'];"
    "from autoadapt.adapting.verification.children import answer; answer(asked)"
)
_MOST_START = 120
"""Seconds that a child may take to start and import what the module needs."""
_TELL_EVERY = 10
"""Seconds between two messages of progress."""
_ENDED_BY_CLOCK = "Timeout ("
"""How the traceback begins that `faulthandler` writes when it ends a process after its time."""
_NO_MEMORY = re.compile(r"MemoryError|bad_alloc|[Cc]an(no|')t allocate memory")


class UnstartedError(Exception):
    """Raised where a module cannot be handed to a child; says why."""


def in_children(
    asked: Mapping[str, Any], names: Sequence[str], *, seconds: float, memory: int, tell: Tell
) -> Iterator[Check]:
    """Run checks one after another in a child process; after one that ends it, a new child runs the rest.

    Args:
        asked: The arguments of a `Session`.
        names: The thorough checks to run.
        seconds: How long each may take.
        memory: Bytes that the child may allocate beyond the module. The limit works on Linux alone.
        tell: Called with messages of progress.

    Yields:
        The row of each check, in the order of `names`.

    Raises:
        UnstartedError: The module cannot be pickled, or not loaded in another process.
    """
    with tempfile.TemporaryDirectory(prefix="autoadapt-", ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "module.pt"
        _write(asked, file)
        left, path = list(names), [one for one in sys.path if isinstance(one, str)]
        given = {"file": str(file), "path": path, "code": _files(asked["net"]), "seconds": seconds, "memory": memory}
        while left:
            printed, code = _child({**given, "names": left}, tell)
            found = list(_rows(printed, code, seconds))
            yield from found
            left = left[len(found) :]


def stopped(name: str, seconds: float) -> Check:
    """The row of a check that took too long."""
    return Check(name=name, outcome="not run", detail=f"stopped after {seconds:g} s; verify(..., seconds=)")


def _write(asked: Mapping[str, Any], file: Path) -> None:
    """Pickle the module and torch's settings for a child.

    Raises:
        UnstartedError: It does not pickle, or has classes of the main script, which a child does not import.
    """
    scripted = {type(one).__name__ for one in asked["net"].modules() if type(one).__module__ == "__main__"}
    if scripted:
        raise UnstartedError(f"{min(scripted)} is defined in the script that runs")
    settings = {"threads": torch.get_num_threads(), "dtype": torch.get_default_dtype()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save({"asked": dict(asked), **settings}, file)
    except Exception as error:
        raise UnstartedError(f"it does not pickle: {said(error, 80)}") from error


def _files(net: nn.Module) -> dict[str, str]:
    """The files of top-level modules that define the classes of a model, by module name.

    A child may not find such a module by its name, for example where a model was loaded from a given file.
    """
    names = {type(one).__module__ for one in net.modules()}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(names) if "." not in name}
    return {name: os.path.abspath(file) for name, file in files.items() if file}


def _child(asked: Mapping[str, Any], tell: Tell) -> tuple[str, int]:
    """Start a child and wait for it; it is killed when this function ends, even by an exception.

    Returns:
        What the child printed, and its exit code.
    """
    command = [os.fsdecode(multiprocessing.spawn.get_executable() or ""), "-c", _PROGRAM, json.dumps(asked)]
    quiet = subprocess.DEVNULL
    began, most = time.monotonic(), _MOST_START + asked["seconds"] * len(asked["names"])
    with subprocess.Popen(
        command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, text=True, start_new_session=True
    ) as process:
        try:
            while True:
                try:
                    return process.communicate(timeout=_TELL_EVERY)[0], process.returncode
                except subprocess.TimeoutExpired:
                    spent = time.monotonic() - began
                    tell(f"{', '.join(asked['names'])} in a process of their own, {spent:.0f} s")
                    if spent > most:
                        _end(process)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a child that has not ended, with the processes that it has started."""
    if process.poll() is None:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _rows(printed: str, code: int, seconds: float) -> Iterator[Check]:
    """The rows that a child printed, and one for a check during which it ended.

    Raises:
        UnstartedError: It did not begin any check.
    """
    lines = printed.splitlines()
    if not lines or not lines[0].startswith("?"):
        raise UnstartedError(f"another process does not load it: {lines[0][1:] if lines else f'exit code {code}'}")
    begun = ""
    for line in lines:
        if line.startswith("{"):
            yield Check.model_validate_json(line)
        begun = line.removeprefix("?") if line.startswith("?") else "" if line.startswith("{") else begun
    if begun:
        yield stopped(begun, seconds) if _ENDED_BY_CLOCK in printed else _killed(begun, code)


def _killed(name: str, code: int) -> Check:
    """The row of a check during which the process ended."""
    if code == -9:  # by this process, after its time, or by a system that is short of memory
        return Check(name=name, outcome="not run", detail="its process was killed, as where time or memory runs out")
    by = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return failed(name, [Mismatch(name, "a process that goes on", by)])


def answer(asked: Mapping[str, Any]) -> None:
    """Run checks and print their rows: the main function of a child.

    What the module itself prints is discarded. After `seconds`, `faulthandler` ends the process from a thread outside
    of Python, so that compiled code that never returns is ended too, even if the caller was killed meanwhile.

    Args:
        asked: Made by `in_children`, plus the names of the checks.
    """
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        for name, file in asked["code"].items():
            _import_file(name, file)
        given = torch.load(asked["file"], weights_only=False, mmap=True)  # of the caller's own making
        torch.set_num_threads(given["threads"])
        torch.set_default_dtype(given["dtype"])
        session = Session(**given["asked"])
    except Exception as error:
        print(f"!{said(error, 80)}", file=channel)
        return
    is_limited = _limit_memory(asked["memory"])
    for name in asked["names"]:
        print(f"?{name}", file=channel)
        faulthandler.dump_traceback_later(min(max(asked["seconds"], 0.01), 1e6), exit=True, file=channel)
        found = checked(session, name, THOROUGH_CHECKS[name])
        faulthandler.cancel_dump_traceback_later()
        is_out = _NO_MEMORY.search(" ".join([found.detail, *(fault.found for fault in found.faults)]))
        if is_out:
            detail = f"stopped at {in_words(asked['memory'])} of memory; verify(..., memory=)"
            found = Check(name=name, outcome="not run", detail=detail)
        elif not is_limited:
            found = found.model_copy(update={"detail": f"{found.detail}; memory not limited on {sys.platform}"})
        print(found.model_dump_json(), file=channel)
        if is_out:
            break
    os._exit(0)  # threads that the module started end with it


def _import_file(name: str, file: str) -> None:
    """Import a file under the name that it has in the caller's process, if that name cannot be imported here."""
    sys.path.append(str(Path(file).parent))
    if importlib.util.find_spec(name) is None:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None, "a class came from there"
        assert spec.loader is not None, "as above"
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


def _limit_memory(most: int) -> bool:
    """Limit how many more bytes this process may allocate; returns whether the system supports that."""
    if sys.platform != "linux":
        return False
    import resource

    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = held + most
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))
    return True
