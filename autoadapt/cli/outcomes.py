"""Outcomes: what a command prints and the code it exits with: 0 it holds, 1 it does not, 2 a bad call.

Results go to standard output, as tables of eighty columns or as JSON; errors and progress go to standard error. An
error is a line and what to do; with `--json` it is an object with `error`, `message` and `mismatches`.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

from autoadapt.cli.remedies import fault_in_shell, sentence, told_in_shell
from autoadapt.errors import AdaptError, CoverageError, MatchError, Mismatch, VerificationError
from autoadapt.errors.codes import page_of
from autoadapt.showing.tables import page_width

if TYPE_CHECKING:
    from pydantic import BaseModel

    from autoadapt.contracts.facts import Dated
    from autoadapt.contracts.signature import Signature

HOLDS = 0
DOES_NOT_HOLD = 1
BAD_CALL = 2
STOPPED = 130
"""As shells give it to what an interrupt has ended."""

_FAILURES = (MatchError, VerificationError, CoverageError)
"""Nothing is wrong with the call: what was asked for does not hold."""

_MOST_FAULTS = 4
_MOST_REMEDIES = 3


@contextlib.contextmanager
def running(as_json: bool, debug: bool) -> Iterator[None]:
    """Errors become a line and a remedy, and an exit code; the traceback is there for who asks."""
    interrupts: list[int] = []
    try:
        with _noted(interrupts):
            from autoadapt.contracts.facts import commanded

            with commanded(shlex.join(["autoadapt", *sys.argv[1:]])):
                yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except (Exception, KeyboardInterrupt) as error:
        if interrupts or isinstance(error, KeyboardInterrupt):
            typer.echo("stopped", err=True)
            raise typer.Exit(STOPPED) from error
        raise typer.Exit(_told(error, as_json, debug)) from error


@contextlib.contextmanager
def _noted(interrupts: list[int]) -> Iterator[None]:
    """Note interrupts in a list: a library that is being imported may swallow one, and fail for that only later."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _told(error: Exception, as_json: bool, debug: bool) -> int:
    """The exit code of an error, once it is said."""
    if debug:
        traceback.print_exc()
    elif isinstance(error, AdaptError):
        complain(type(error).__name__, error.summary, error.mismatches, as_json, error.code)
    else:
        said = (str(error).splitlines() or ["no message"])[0]
        complain(type(error).__name__, said, [Mismatch("", "", "", "the same call with --debug shows where")], as_json)
    return DOES_NOT_HOLD if isinstance(error, _FAILURES) else BAD_CALL


def complain(kind: str, summary: str, mismatches: Sequence[Mismatch], as_json: bool, code: str = "") -> None:
    """Say what is wrong and what to do about it, on standard error; where the message has a code, where to read on."""
    told, faults = sentence(summary), [*map(fault_in_shell, mismatches)]
    if as_json:
        shown = {"error": kind, "code": code, "message": told, "mismatches": list(map(vars, faults))}
        typer.echo(json.dumps(shown), err=True)
        return
    see = [f"  see  {page_of(code)}"] if code else []
    typer.echo("\n".join([*_lines(kind, told, faults), *see]), err=True)


def _lines(kind: str, summary: str, mismatches: Sequence[Mismatch]) -> list[str]:
    single = ""
    if len(mismatches) == 1:
        place = mismatches[0].where
        single = _difference(mismatches[0], with_place=place.rpartition(":")[2] not in summary)
    lines = _wrapped(f"{kind}: {summary}" + (f": {single}" if single else ""), "", "  ")
    if len(mismatches) > 1:
        for fault in mismatches[:_MOST_FAULTS]:
            lines += _wrapped(_difference(fault, with_place=True), "  ", "    ")
        if len(mismatches) > _MOST_FAULTS:
            lines.append(f"  and {len(mismatches) - _MOST_FAULTS} more, which --json shows")
    for why in dict.fromkeys(fault.why for fault in mismatches[:_MOST_FAULTS] if fault.why):
        lines += _wrapped(why, "  why  ", "       ")
    remedies = [line for fault in mismatches for line in fault.remedy.splitlines() if line]
    labels = ["try", *[""] * _MOST_REMEDIES]
    shown = list(dict.fromkeys(remedies))[:_MOST_REMEDIES]
    return lines + [f"  {label:<3}  {_pasted(remedy)}" for label, remedy in zip(labels, shown, strict=False)]


def _pasted(remedy: str) -> str:
    """A remedy that is too long for a line in several, if it is words; what is to be pasted stays whole."""
    if len(remedy) <= page_width() - 7 or remedy.startswith(("--", "autoadapt ")):
        return remedy
    return "\n       ".join(textwrap.wrap(remedy, page_width() - 7, break_on_hyphens=False))


def _difference(fault: Mismatch, *, with_place: bool) -> str:
    """A fault in a sentence."""
    parts = [f"expected {fault.expected}" if fault.expected else "", f"found {fault.found}" if fault.found else ""]
    said = " ".join(", ".join(filter(None, parts)).split())
    return f"{fault.where}: {said}" if with_place and fault.where and said else said


def _wrapped(text: str, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text,
        page_width(),
        initial_indent=first,
        subsequent_indent=later,
        max_lines=6,
        placeholder=" …",
        break_on_hyphens=False,
    )


def show(result: Dated, as_json: bool, html: Path | None = None, parts: Sequence[BaseModel] = ()) -> None:
    """Print a result: in colours on a terminal, else as text of eighty columns, or as JSON.

    Args:
        result: What was found.
        as_json: Whether JSON is wanted.
        html: Where a page of it goes as well.
        parts: What a result of several parts is made of, each of which shows itself.
    """
    told, shown = told_in_shell(result), tuple(map(told_in_shell, parts or (result,)))
    if as_json:
        from autoadapt.contracts.facts import Made

        told = told.model_copy(update={"made": result.made or Made.now()})
        typer.echo(json.dumps(told.model_dump(mode="json"), indent=1))  # escapes what a terminal would obey
    elif sys.stdout.isatty():
        from rich.console import Console

        for number, part in enumerate(shown):
            Console().print(*([""] if number else []), part, sep="\n")
    else:
        typer.echo(fitted(str(told)))
    write_page(html, *shown)  # last: whatever fails, the result is told


def write_page(html: Path | None, *shown: BaseModel) -> None:
    """Write a page of results where one is wanted."""
    if html is not None:
        from autoadapt.reports import write_html

        write_html(html, *shown)
        wrote(html)


def keep(signature: Signature, path: Path) -> None:
    """Save a signature, with when and with what it was made."""
    from autoadapt.contracts.facts import Made

    signature.model_copy(update={"made": Made.now()}).save(path)
    wrote(path)


def wrote(path: Path) -> None:
    """Say on standard error that a file is there."""
    typer.echo(f"wrote {path}", err=True)


def fitted(text: str, width: int | None = None) -> str:
    """A text whose lines fit a terminal; those that are too long go on below, farther in.

    Example:
        >>> print(fitted(" reads  c2, c3, c4", 14))
         reads  c2,
             c3, c4
    """
    room = width or shutil.get_terminal_size().columns
    return "\n".join(part for line in text.split("\n") for part in _broken(line, room))


def _broken(line: str, width: int) -> list[str]:
    """A line in parts; what is to be pasted stays whole."""
    inside = line.lstrip()
    if len(line) <= width or inside.startswith("call  "):
        return [line]
    indent = " " * (len(line) - len(inside))
    return textwrap.wrap(line, width, subsequent_indent=f"{indent}    ", break_on_hyphens=False)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Say on a terminal what is being done and how much of it is, as it stands; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    from autoadapt.showing.progress import progress

    with (
        Console(stderr=True).status(Text(what)) as status,  # as a Text, so that brackets in names are no markup
        progress(lambda event: status.update(Text(f"{what}: {event.counted}"))),
    ):
        yield
