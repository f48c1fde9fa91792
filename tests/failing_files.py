"""Failing files: each operation on files that a writer makes fails once, as on a disk that has a fault."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import file_kinds as kinds
import torch
from torch import nn

import autoadapt as aa

OLD, IMAGE = nn.Conv2d(3, 8, 2, stride=2), torch.zeros(1, 3, 8, 8)


def _images() -> list[torch.Tensor]:
    return [torch.randn(4, 3, 8, 8) for _ in range(2)]


WRITERS: dict[str, Callable[[Path], object]] = {
    "save": lambda folder: aa.save(kinds.adapted(), folder / "saved", check=False),
    "whole": lambda folder: aa.save(nn.Sequential(kinds.adapted(), nn.ReLU()), folder / "whole", check=False),
    "signature": lambda folder: kinds.adapted().signature.save(folder / "one.json"),
    "html": lambda folder: aa.write_html(folder / "one.html", kinds.adapted().plan),
    "source": lambda folder: aa.to_source(kinds.adapted(), folder / "one.py"),
    "state": lambda folder: aa.calibrate(kinds.adapted(), like=OLD, data=_images(), state=folder / "one.st"),
    "rank": lambda folder: aa.rank({"one": kinds.backbone()}, OLD, inputs=IMAGE, state=folder / "one.jsonl"),
    "export": lambda folder: aa.export(kinds.adapted(), folder / "one.pt"),
}

_EVENTS = ("open", "os.", "shutil.", "glob.glob", "tempfile.")
_counted: dict[str, Any] = {"folder": "", "at": -1, "seen": 0}


def _hook(event: str, args: tuple[Any, ...]) -> None:
    folder = _counted["folder"]
    if not folder or not event.startswith(_EVENTS) or not any(folder in str(arg) for arg in args):
        return
    _counted["seen"] += 1
    if _counted["seen"] == _counted["at"]:
        raise OSError(errno.EIO, "Input/output error")


def fail_each(writer: str, folder: Path) -> None:
    """Run a writer again and again, each time with another operation in its folder failing, until none is left.

    Raises:
        AssertionError: A run ended in an error that is none of ours, or what is there afterwards is not whole.
    """
    WRITERS[writer](folder)
    seen = at = 0
    while seen >= at:
        at += 1
        _counted.update(folder=str(folder), at=at, seen=0)
        try:
            WRITERS[writer](folder)
        except aa.AdaptError:
            pass
        except BaseException as error:
            raise AssertionError(f"operation {at}: {type(error).__name__}: {error}") from error
        finally:
            seen, _counted["folder"] = _counted["seen"], ""
        _check(writer, folder)
    assert at > 5, "nothing was made to fail"


def _check(writer: str, folder: Path) -> None:
    """Raise where what is there is not whole."""
    match writer:
        case "save":
            aa.restore(folder / "saved", new=kinds.backbone())
        case "whole":
            aa.restore(folder / "whole", kinds.backbone(), model=nn.Sequential(nn.Identity(), nn.ReLU()))
        case "signature":
            aa.Signature.load(folder / "one.json")
        case "html":
            assert (folder / "one.html").read_text().rstrip().endswith("</html>")


FAILED: dict[str, Callable[[Path], object]] = {name: functools.partial(fail_each, name) for name in WRITERS}

sys.addaudithook(_hook)
