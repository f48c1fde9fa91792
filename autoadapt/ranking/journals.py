"""Journals: what is ranked already, a line of JSON each, so that a run can be cut and go on.

The first line says which run it is. `begun` stands before a candidate is tried and `row` after it; a candidate that was
begun and never ended took the process with it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoadapt.errors import Mismatch, RankingError
from autoadapt.ranking.candidates import Candidate
from autoadapt.ranking.results import Ranked

__all__ = ["Journal"]

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
        self._rows: dict[tuple[str, str], Ranked] = {}
        self._begun: Counter[tuple[str, str]] = Counter()
        if path is None:
            return
        text = _text(path)
        if text:
            self._read(path, text[: text.rfind("\n") + 1], run)
            _take_off_what_a_cut_left(path, text)
        else:
            _write(path, {"autoadapt": "rank", "schema_version": 1, "run": dict(run)})

    def _read(self, path: Path, text: str, run: Mapping[str, Any]) -> None:
        try:
            first, *rest = [json.loads(line) for line in text.splitlines()]
            found = first["run"]
            for entry in rest:
                self._note(entry)
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            said = str(error).splitlines()[0]
            fault = Mismatch(str(path), "lines of autoadapt.rank", said, "name another file")
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
            case "stopped":
                self._begun[key] = 0
            case _:
                self._begun[key] = 0
                self._rows[key] = Ranked.model_validate(entry["row"])

    def row(self, candidate: Candidate) -> Ranked | None:
        """What is known of a candidate already; those that were refused are tried again."""
        key = candidate.name, candidate.fingerprint
        if self._begun[key] >= MOST_BEGINNINGS:
            said = f"the process ended {self._begun[key]} times while it was tried"
            return Ranked(source=candidate.name, refused=said, remedy=f"rank it alone, or delete {self._path}")
        found = self._rows.get(key)
        return None if found is None or found.refused else found

    def begin(self, candidate: Candidate) -> None:
        """Note that a candidate is being tried."""
        self._append(candidate, "begun")

    def stop(self, candidate: Candidate) -> None:
        """Note that the user stopped a trial, which says nothing about the candidate."""
        self._append(candidate, "stopped")

    def end(self, candidate: Candidate, row: Ranked) -> None:
        """Note what was found."""
        self._append(candidate, "ended", row)

    def _append(self, candidate: Candidate, what: str, row: Ranked | None = None) -> None:
        if self._path is None:
            return
        entry = {"what": what, "candidate": candidate.name, "fingerprint": candidate.fingerprint}
        _write(self._path, entry | ({} if row is None else {"row": row.model_dump(mode="json")}))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        fault = Mismatch(str(path), "a file of JSON lines", str(error), "name another file")
        raise RankingError(f"{path} cannot be read", [fault]) from error


def _take_off_what_a_cut_left(path: Path, text: str) -> None:
    """A line without its end was being written when the process ended."""
    if not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")


def _write(path: Path, entry: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
