"""Reading: texts and JSON of strangers, within limits that are checked before any work."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from autoadapt.errors import AdaptError, Mismatch
from autoadapt.errors.printable import visible

MOST_BYTES = 64 << 20
"""Of a text file, unless its reader says less."""


def read_text(path: Path, expected: str, remedy: str, error: type[AdaptError], *, most: int = MOST_BYTES) -> str:
    """The text of a plain file.

    Args:
        path: The file.
        expected: What should be there, for the error.
        remedy: What to do where it is not.
        error: What to raise.
        most: Bytes that it may have.

    Raises:
        AdaptError: It is no plain file, larger than that, or no text.
    """
    cause = None
    try:
        if not (said := hindrance(path, most)):
            return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as raised:
        said, cause = _in_words(path, raised), raised
    raise error(f"{path} cannot be read", [Mismatch(str(path), expected, said, remedy)]) from cause


def _in_words(path: Path, error: Exception) -> str:
    """Why a file cannot be read."""
    if os.path.isdir(path):
        return "a folder"
    match error:
        case FileNotFoundError():
            return "no such file"
        case PermissionError():
            return "a file that may not be read"
        case UnicodeDecodeError():
            return "bytes that are no text"
        case _:
            return one_line(error)


def hindrance(path: Path, most: int | None = None) -> str:
    """Why a file should not be read: it is no plain file, or has more bytes; empty where it may be.

    Raises:
        OSError: It cannot be looked at.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        return "no plain file but a pipe or a device"
    return f"{found.st_size:,} bytes, and at most {most:,} are read" if most and found.st_size > most else ""


def read_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is no JSON, nested too deeply, or has an integer of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind, where it says nothing.

    Example:
        >>> first_line(ValueError("first\\nsecond")), first_line(AssertionError())
        ('first', 'AssertionError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """An error as a line: its kind, and the first line of what it says, if it says anything.

    Example:
        >>> one_line(ValueError("first\\nsecond")), one_line(AssertionError())
        ('ValueError: first', 'AssertionError')
    """
    return visible(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]))[:300]
