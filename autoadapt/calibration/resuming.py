"""Resuming: the state files that a run goes on from, also where another number of workers has written them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from autoadapt.calibration import workers
from autoadapt.calibration.run_states import State, written_by
from autoadapt.errors import CalibrationError, Mismatch
from autoadapt.files.reading import one_line


def own_file(path: Path) -> Path:
    """Where this worker writes: one that is alone to the file itself, others to one each beside it.

    Example:
        >>> own_file(Path("fit.safetensors")).name
        'fit.safetensors'
    """
    return path if workers.count() == 1 else path.with_suffix(f".{workers.number()}{path.suffix}")


def resume(state: State, empty: Callable[[], State], path: Path, fingerprint: str) -> None:
    """Go on from what as many workers left, or take over all that another number of them did.

    The first worker takes it over, and has it in its own file before anybody writes to another; files of before then
    are of an older generation, and are not read again. Which images were counted all workers know.

    Args:
        state: Becomes what this worker had counted; nothing where there are no files.
        empty: Makes a state of nothing.
        path: The file that the caller named.
        fingerprint: Of this run.

    Raises:
        CalibrationError: A file is no state, or one of another run.
    """
    state.workers = workers.number(), workers.count()
    written = {one: written_by(one) for one in _files(path)}
    every = workers.gathered({workers.number(): list(written.values())})
    if not any(every.values()):
        return
    state.generation, (_, count) = max(one for each in every.values() for one in each)
    latest = {worker: one for one, (generation, (worker, _)) in written.items() if generation == state.generation}
    if count == workers.count():
        if (own := latest.get(workers.number())) is not None:
            state.load(own, fingerprint)
        state.before = workers.gathered(state.before)
        return
    if workers.number() == 0:
        for one in latest.values():
            other = empty()
            other.load(one, fingerprint)
            state.absorb(other)
    state.generation += 1
    state.before = workers.gathered(state.counted)
    if workers.number() == 0:
        state.save(own_file(path), fingerprint)
    workers.all_are_well()


def _files(path: Path) -> list[Path]:
    """The file itself and those beside it that have a worker's number.

    Raises:
        CalibrationError: The folder cannot be read.
    """
    name = re.compile(rf"{re.escape(path.stem)}(\.\d+)?{re.escape(path.suffix)}")
    try:
        beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    except OSError as error:
        fault = Mismatch(str(path.parent), "a folder that can be read", one_line(error), "another folder for state=")
        raise CalibrationError(f"what {path} holds cannot be looked up", [fault]) from error
    return [one for one in beside if name.fullmatch(one.name)]
