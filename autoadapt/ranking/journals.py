"""Journals: what is ranked already, a line of JSON each, so that a run can be cut and go on.

Lines are only ever added, each with a checksum of itself; what a cut has left of one is taken off in place.
The first line says which run it is. `begun` stands before a candidate is tried and `ended` with its row after it; a
candidate that was begun and never ended took the process with it. Where the process lives on without a row, as on a
full disk or after Ctrl-C, `begun` is taken off again, which needs no room.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoadapt.errors import Mismatch, RankingError
from autoadapt.files.reading import MOST_BYTES, first_line, hindrance
from autoadapt.files.writing import check_place, folder_of
from autoadapt.ranking.candidates import Candidate
from autoadapt.ranking.results import Ranked

SCHEMA = 2
_START = b'{"autoadapt": "rank"'
_CHECKSUM = ', "sha256": "'
MOST_BEGINNINGS = 2
"""A candidate that ended the process so often is not tried again."""


class Journal:
    """A file to go on from; without a path it keeps nothing.

    Args:
        path: The file; made when it is not there.
        run: What two runs must have in common for one to go on where the other stopped.

    Raises:
        RankingError: The file is no journal, or one of another run.
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any]) -> None:
        self._path = path
        self._rows: dict[tuple[str, str, int], Ranked] = {}
        self._begun: Counter[tuple[str, str]] = Counter()
        self._open: tuple[int, int] | None = None
        if path is None:
            return
        check_place(path, "state", RankingError)
        content = _content(path)
        whole = content[: content.rfind(b"\n") + 1]
        if content and not whole and not content.startswith(_START[: len(content)]):
            fault = Mismatch(str(path), "lines of autoadapt.rank", "other content", "name another file")
            raise RankingError(f"{path} holds no ranking", [fault])
        if whole:
            self._read(path, whole, run)
        if len(whole) < len(content):  # a line without its end was being written when the process ended
            os.truncate(path, len(whole))
        if not whole:
            with folder_of(path):
                _write(path, {"autoadapt": "rank", "schema_version": SCHEMA, "run": dict(run)})

    def _read(self, path: Path, content: bytes, run: Mapping[str, Any]) -> None:
        try:
            first, *rest = [_entry(number, line) for number, line in enumerate(content.splitlines(), 1)]
            found = dict(first["run"])
            for entry in rest:
                self._note(entry)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as error:
            fault = Mismatch(str(path), "lines of autoadapt.rank", first_line(error), "name another file")
            raise RankingError(f"{path} holds no ranking", [fault]) from error
        other = [name for name in run if found.get(name) != run[name]]
        if other:
            faults = [
                Mismatch(name, str(run[name]), str(found.get(name)), "name another file, or delete it")
                for name in other
            ]
            raise RankingError(f"{path} is of another ranking", faults)

    def _note(self, entry: Mapping[str, Any]) -> None:
        key = entry["candidate"], entry["fingerprint"]
        match entry["what"]:
            case "begun":
                self._begun[key] += 1
            case "stopped":  # of an earlier version, which noted what the user stopped
                self._begun[key] = 0
            case _:
                self._begun[key] = 0
                row = Ranked.model_validate(entry["row"])
                self._rows[key[0], key[1], row.images] = row

    def row(self, candidate: Candidate, images: int = 0) -> Ranked | None:
        """What is known of a candidate on so many images already; those that were refused are tried again."""
        if self._path is None:
            return None
        key = candidate.name, candidate.fingerprint
        if self._begun[key] >= MOST_BEGINNINGS:
            said = f"the process ended {self._begun[key]} times while it was tried"
            return Ranked(source=candidate.name, refused=said, remedy=f"rank it alone, or delete {self._path}")
        found = self._rows.get((*key, images))
        return None if found is None or found.refused else found

    def begin(self, candidate: Candidate) -> None:
        """Note that a candidate is being tried."""
        self._open = self._append(candidate, "begun")

    def take_back(self) -> None:
        """Take off that a candidate was begun: that it came to no row says nothing about it."""
        if self._path is None or self._open is None:
            return
        before, after = self._open
        with contextlib.suppress(OSError):  # what is in the way of the row is raised already
            if self._path.stat().st_size == after:
                os.truncate(self._path, before)

    def end(self, candidate: Candidate, row: Ranked) -> None:
        """Note what was found."""
        self._append(candidate, "ended", row)

    def _append(self, candidate: Candidate, what: str, row: Ranked | None = None) -> tuple[int, int] | None:
        if self._path is None:
            return None
        entry = {"what": what, "candidate": candidate.name, "fingerprint": candidate.fingerprint}
        return _write(self._path, entry | ({} if row is None else {"row": row.model_dump(mode="json")}))


def _content(path: Path) -> bytes:
    try:
        if said := hindrance(path, MOST_BYTES):
            fault = Mismatch(str(path), "a file of JSON lines", said, "name another file")
            raise RankingError(f"{path} cannot be read", [fault])
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        fault = Mismatch(str(path), "a file of JSON lines", str(error), "name another file")
        raise RankingError(f"{path} cannot be read", [fault]) from error


def _entry(number: int, line: bytes) -> dict[str, Any]:
    """What a line says, if it is the one that was written."""
    text, sign, found = line.decode().rpartition(_CHECKSUM)
    if not sign or found != f'{_checksum(text)}"}}':
        raise ValueError(f"line {number} is damaged: it has not the checksum that it was written with")
    entry: dict[str, Any] = json.loads(text + "}")
    return entry


def _write(path: Path, entry: Mapping[str, Any]) -> tuple[int, int]:
    """Add a line; where that fails, as on a full disk, the file is as long as before.

    Returns:
        The length of the file in bytes, before and after.

    Raises:
        RankingError: It cannot be added.
    """
    text = json.dumps(entry).removesuffix("}")
    line = f'{text}{_CHECKSUM}{_checksum(text)}"}}\n'.encode()
    try:
        with path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                _write_whole(file, line)
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(before)
                raise
        return before, before + len(line)
    except OSError as error:
        fault = Mismatch(str(path), "a file that can be added to", f"{type(error).__name__}: {error.strerror}", "")
        raise RankingError(f"{path} keeps what it holds, but nothing can be added", [fault]) from error


def _write_whole(file: FileIO, line: bytes) -> None:
    while line:
        line = line[file.write(line) :]


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
