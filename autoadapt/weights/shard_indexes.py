"""Indexes: which file of a checkpoint in several holds which tensor, and whether these files do."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from autoadapt.errors import Mismatch, SourceError
from autoadapt.files.reading import read_json, read_text

_MOST_SHARDS = 10_000
_EXPECTED = 'JSON with a "weight_map"'


def read_index(index: Path) -> dict[Path, set[str]]:
    """The files that an index names, in order, and the tensors that each of them is to hold.

    Raises:
        SourceError: It is malformed, names very many files or files elsewhere, or one is missing.
    """
    named = _named(index)
    if len(named) > _MOST_SHARDS:
        fault = Mismatch(str(index), f"at most {_MOST_SHARDS:,} shards", f"{len(named):,}")
        raise SourceError("the index names too many files", [fault])
    outside = [name for name in named if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        fault = Mismatch(str(index), "shards beside the index", ", ".join(outside[:8]))
        raise SourceError("the index names files elsewhere", [fault])
    paths = {index.parent / name: tensors for name, tensors in named.items()}
    missing = [Mismatch(str(path), "a shard", "no file") for path in paths if not os.path.isfile(path)]
    if missing:
        raise SourceError(f"shards are missing, {len(missing)} of {len(named)}", missing[:8])
    return paths


def _named(index: Path) -> dict[str, set[str]]:
    text = read_text(index, _EXPECTED, "copy or download it again", SourceError)
    named: dict[str, set[str]] = {}
    try:
        for tensor, value in read_json(text)["weight_map"].items():
            named.setdefault(_shard_name(value), set()).add(tensor)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        fault = Mismatch(str(index), _EXPECTED, f"{type(error).__name__}: {error}")
        raise SourceError("the index of the shards cannot be read", [fault]) from error
    return dict(sorted(named.items()))


def _shard_name(value: object) -> str:
    """The name of a shard, which is no index again."""
    if not isinstance(value, str) or value.endswith(".json") or "\0" in value or len(value) > 255:
        raise ValueError(f"{str(value)[:60]!r} names no file of weights")
    return value


def check_shards(index: Path, named: Mapping[Path, set[str]], held: Mapping[Path, Collection[str]]) -> None:
    """Refuse shards that hold other tensors than their index says: of one of the two there is another version.

    Args:
        index: The index.
        named: What it says of each file.
        held: What each file holds.

    Raises:
        SourceError: With the tensors.
    """
    faults: list[tuple[str, str, str]] = []
    for path, names in named.items():
        faults += [(name, f"in {path.name}", "not there") for name in names - set(held[path])]
        faults += [(name, "a name of the index", path.name) for name in set(held[path]) - names]
    if faults:
        remedy = "download the index and all shards of one version"
        shown = [Mismatch(name, expected, found, remedy) for name, expected, found in sorted(faults)[:6]]
        raise SourceError(f"{index.name} and its shards disagree on {len(faults)} tensors", shown)


def damaged(file: Path, expected: str, error: Exception) -> Mismatch:
    """The fault of a file that its reader does not take."""
    size = file.stat().st_size
    text = f"{type(error).__name__} {error}".split("\n")[0].split(". ")[0].strip()
    return Mismatch(str(file), f"a whole {expected} file", f"{size:,} bytes; {text}", "copy or download it again")
