"""Unexported: which line of a module `torch.export` could not trace, why, and what to write instead."""

from __future__ import annotations

import contextlib
import io
import linecache
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from autoadapt.adapting.verification.sessions import said
from autoadapt.errors import Mismatch

_TORCH, _OWN = str(Path(torch.__file__).parent), str(Path(__file__).parents[2])
_ON_SIZES = "code that depends on sizes, dtypes and settings alone"
_REMEDIES = {
    "data-dependent": "torch.where(condition, a, b), or torch.cond(...), in place of if and int() on values",
    "numpy": "operations of torch in place of numpy",
}
"""Remedies, by a text in torch's message."""


@contextlib.contextmanager
def no_logs() -> Iterator[None]:
    """Suppress logs and prints: torch writes whole graphs to the terminal before it raises."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def untraced(name: str, error: Exception) -> Mismatch:
    """The mismatch of an error of `torch.export`, with the line of the module's code at which it stopped.

    Args:
        name: Of the module; shown where no line of its code is in the traceback.
        error: What was raised.
    """
    message = said(error, 160)
    remedy = next((text for sign, text in _REMEDIES.items() if sign in str(error)), "")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_foreign(frame.filename)]
    if not frames:
        return Mismatch(name, _ON_SIZES, message, remedy)
    last = frames[-1]
    where = f"{Path(last.filename).name}:{last.lineno} in {last.name}"
    line = linecache.getline(last.filename, last.lineno or 0).strip()
    return Mismatch(where, _ON_SIZES, "\n".join(filter(None, [line, message])), remedy)


def _is_foreign(file: str) -> bool:
    """Whether code belongs to torch or this package."""
    return file.startswith((_TORCH, _OWN, "<"))
