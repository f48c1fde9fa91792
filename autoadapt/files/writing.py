"""Files: every file of the package is written here, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from safetensors import SafetensorError

from autoadapt.errors import AdaptError, Mismatch, SavingError

Content: TypeAlias = str | bytes | Callable[[Path], object]
"""A text, bytes, or what writes a file to a path."""

_DAY = 24 * 3600.0


def write_file(path: str | Path, content: Content) -> None:
    """Write a file whole: beside its place first, then moved there; on any failure what was there is as it was.

    Args:
        path: Its folder is made where there is none. What is no plain file, such as `/dev/stdout`, is written to.
        content: What to write.

    Raises:
        SavingError: It cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(f"{folder}/notes/a.txt", "whole")
        ...     print(Path(folder, "notes", "a.txt").read_text())
        whole
    """
    refuse_empty(path, "path")
    with explained(Path(path)):
        real = Path(os.path.realpath(path))
        if real.exists() and not real.is_file() and not real.is_dir():
            _fill(real, content)
        else:
            write_all(real.parent, {real.name: content})


def write_all(folder: Path, contents: Mapping[str, Content]) -> None:
    """Write several files into a folder; on any failure it is as it was.

    Each is written under another name and flushed to the disk; then they take their places in the order given. Until
    the last has done so the older files are kept beside it under names that `kept_copies` finds: killed before, the
    folder still holds all that was there.

    Args:
        folder: Made where it does not exist.
        contents: What to write, by the name of the file; the one that says what the others are comes last.

    Raises:
        SavingError: The folder cannot be written to.
    """
    with explained(folder):
        if folders := [name for name in contents if (folder / name).is_dir()]:
            raise IsADirectoryError(0, f"`{folders[0]}` is a folder")
        made = {name: folder / temporary_name(name, "new") for name in contents}
        with folder_of(folder / "any"):
            try:
                for name, content in contents.items():
                    _write_beside(made[name], folder / name, content)
                _put_in_place(folder, made)
            finally:
                for path in made.values():
                    path.unlink(missing_ok=True)
        for name in contents:
            sweep(folder, name)


def refuse_empty(
    path: str | Path, argument: str, error: type[AdaptError] = SavingError, remedy: str = "name a file"
) -> None:
    """Refuse what is no place to write to: an empty text would mean the working folder, `~` a folder of that name.

    Raises:
        AdaptError: It is empty, begins with `~`, or is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        fault = Mismatch(argument, "a text or a pathlib.Path", f"{repr(path)[:60]}, of type {type(path).__name__}")
        raise error(f"{argument} is no path, and nothing was done", [fault])
    if not str(path):
        fault = Mismatch(argument, "a path", "''", remedy)
        raise error(f"{argument} is empty, and nothing was done", [fault])
    if (first := Path(path).parts[:1]) and first[0].startswith("~") and not os.path.exists(first[0]):
        fault = Mismatch(argument, "a path", f"{path}, a folder of that name", f'"{os.path.expanduser(path)}"')
        raise error(f"{argument} begins with {first[0]}, which only shells expand; nothing was done", [fault])


def refuse_link(folder: Path, inside: Path) -> None:
    """Refuse what is said to lie in a folder, and is put elsewhere by a link.

    Raises:
        SavingError: It is one.
    """
    real = os.path.realpath(inside)
    if real != os.path.join(os.path.realpath(folder), inside.relative_to(folder)):
        fault = Mismatch(str(inside), f"a folder in {folder}", f"a link to {real}", "copy what it leads to")
        raise SavingError(f"{inside} leads out of its folder", [fault])


def check_place(path: str | Path, argument: str, error: type[AdaptError] = SavingError) -> None:
    """Make sure that a file can be written, before any work is done for it; nothing is left of the attempt.

    Raises:
        AdaptError: It cannot be written.
    """
    refuse_empty(path, argument, error)
    said = ""
    try:
        real = Path(os.path.realpath(path))
        if real.is_dir():
            said = "a folder"
        elif real.exists() and not real.is_file():
            said = "" if os.access(real, os.W_OK) else "no permission to write to it"
        else:
            _try(real)
    except (OSError, ValueError) as found:
        said = _reason(found)
    if said:
        fault = Mismatch(argument, "a file that can be written", f"{path}: {said}", "name another place")
        raise error(f"{argument} cannot be written, and nothing was done", [fault])


def _try(real: Path) -> None:
    """Write an empty file beside a place and remove it."""
    with folder_of(real):
        tried = real.with_name(temporary_name(real.name, "new"))
        tried.touch(exist_ok=False)
        tried.unlink()
        sweep(real.parent, real.name, "new")  # older versions stay until one is written


@contextlib.contextmanager
def folder_of(path: Path) -> Iterator[None]:
    """Make the folder of a file; folders that were made, and in which nothing lies in the end, are removed."""
    parent = Path(os.path.realpath(path.parent))  # a link to what is not there yet counts as there
    missing = [folder for folder in (parent, *parent.parents) if not os.path.lexists(folder)]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):  # something lies in it
            for folder in missing:
                folder.rmdir()


def temporary_name(name: str, kind: str) -> str:
    """A hidden name for what stands beside a file for a while; it says whose it is, so that `sweep` can tell."""
    return f".{name[:150]}.{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{kind}"


def sweep(folder: Path, name: str, kind: str = "*") -> None:
    """Remove what killed processes have left beside a file: of processes that are no more, or older than a day.

    Args:
        folder: Where the file is.
        name: Its name.
        kind: Of temporary names; every kind if left out.
    """
    for path in folder.glob(f".{_escaped(name[:150])}.*-*-*.{kind}"):
        host, pid = [*path.name.rsplit(".", 2)[-2].split("-"), "", ""][:2]
        with contextlib.suppress(OSError):
            old = time.time() - path.lstat().st_mtime > _DAY
            if old or (host == _host() and pid.isdigit() and not _runs(int(pid))):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def kept_copies(path: Path) -> Iterator[Path]:
    """Older versions of a file that were still kept when a process was killed while it wrote several files."""
    yield from sorted(path.parent.glob(f".{_escaped(path.name[:150])}.*-*-*.old"))


@contextlib.contextmanager
def explained(place: Path) -> Iterator[None]:
    """Say of which place it was that files could not be written, whatever the system raises in the block.

    Raises:
        SavingError: In place of an `OSError` or a `ValueError`.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        fault = Mismatch(str(place), "a place that can be written to", _reason(error), "free space, or another place")
        raise SavingError(f"{place} could not be written; what was there is as it was", [fault]) from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _write_beside(made: Path, place: Path, content: Content) -> None:
    """Write a file that is to take a place, flushed to the disk, with the permissions of what is there or the usual."""
    made.touch(exist_ok=False)
    mode = (place if place.exists() else made).stat().st_mode & 0o777
    _fill(made, content)
    with made.open("rb+") as file:
        os.fsync(file.fileno())
    made.chmod(mode)


def _fill(path: Path, content: Content) -> None:
    if callable(content):
        _write_alone(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _write_alone(path: Path, write: Callable[[Path], object]) -> None:
    """Have a library write in a folder of its own, since what it is killed with there is found by `sweep`."""
    folder = path.with_suffix(".folder")
    folder.mkdir()
    try:
        alone = folder / path.name
        alone.touch()
        write(alone)
        alone.replace(path)
    except SafetensorError as error:  # its only word for a full disk
        raise OSError(0, str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, made: Mapping[str, Path]) -> None:
    """Move new files over the old ones; if one of them cannot be moved, put all old ones back."""
    several = len(made) > 1
    kept: dict[str, Path] = {}
    done: list[str] = []
    try:
        for name in made:
            if several and (folder / name).exists():
                kept[name] = folder / temporary_name(name, "old")
                _keep(folder / name, kept[name])
        for name, path in made.items():
            done.append(name)
            path.replace(folder / name)
            _flush(folder)
    except BaseException:
        for name in done if several else ():
            if name in kept:
                kept[name].replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        raise
    finally:
        for path in kept.values():
            path.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Let the names in a folder reach the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _keep(path: Path, other: Path) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    try:
        other.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, other)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def _escaped(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
