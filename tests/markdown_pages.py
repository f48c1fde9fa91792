"""Pages of markdown whose python blocks run, in order, and print what stands in the text block below them.

Seconds, bytes, differences of rounding and checksums may be others than those that stand there; above a block where
only the beginnings of the lines are compared stands `<!-- figures vary -->`, and above a python block that is not run
`<!-- not run: why -->`.

`python tests/markdown_pages.py PAGE...` writes below each block what it prints now, where a text block is there.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
FIGURES_VARY = "<!-- figures vary -->"
VARYING = re.compile(r"\d+(?:\.\d+)?(?= s\b| ?[kM]B\b| models of )|\d\.\de-\d\d|\b[0-9a-f]{12,}\b")
"""Seconds, bytes, how many models a library has, differences of rounding, checksums."""
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True)
class Block:
    """Some lines of python in a page.

    Args:
        page: The file.
        line: The line of the first statement, from 1.
        code: The statements.
        shown: What it prints, from the text block below; None where none is there.
        shown_line: The first line of that.
        figures_vary: Whether only the beginnings of the lines are the same each time.
        not_run: Why it is not run; empty where it is.
    """

    page: Path
    line: int
    code: str
    shown: str | None
    shown_line: int
    figures_vary: bool
    not_run: str


def blocks(page: Path) -> list[Block]:
    """The python blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").split("\n")
    found: list[Block] = []
    reason, i = "", 0
    while i < len(lines):
        skipped = NOT_RUN.fullmatch(lines[i])
        reason = skipped[1] if skipped else reason
        if lines[i].startswith("```"):
            end = lines.index("```", i + 1)
            if lines[i] == "```python":
                code = "\n".join(lines[i + 1 : end])
                found.append(Block(page, i + 2, code, *_shown(lines, end + 1), reason))
            reason, i = "", end
        i += 1
    return found


def _shown(lines: list[str], start: int) -> tuple[str | None, int, bool]:
    """The text block that follows at once, or after an empty line, where it starts, and whether figures in it vary."""
    at = start + (lines[start : start + 1] == [""])
    varies = lines[at : at + 1] == [FIGURES_VARY]
    at += varies
    if lines[at : at + 1] not in (["```"], ["```text"]):
        return None, 0, False
    return "\n".join(lines[at + 1 : lines.index("```", at + 1)]), at + 2, varies


def outputs(page: Path, namespace: dict[str, object] | None = None) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in one namespace, and give what each prints."""
    torch.manual_seed(0)
    module = types.ModuleType("__page__")  # so that pickle finds the classes of a page, as it does those of a script
    vars(module).update(namespace or {}, __name__="__page__")
    sys.modules["__page__"] = module
    try:
        for block in blocks(page):
            if not block.not_run:
                yield block, printed(block, vars(module))
    finally:
        del sys.modules["__page__"]


def printed(block: Block, names: dict[str, object]) -> str:
    """What a block prints; a traceback shows its lines in the page."""
    code = compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return _tidy(out.getvalue())


def agrees(block: Block, text: str) -> bool:
    """Whether a page shows what was printed; one that shows nothing is right."""
    if block.shown is None:
        return True
    shown, text = _tidy(block.shown), _tidy(text)
    if block.figures_vary:
        return _beginnings(shown) == _beginnings(text)
    return _without_figures(shown) == _without_figures(text)


def _without_figures(text: str) -> str:
    """A text without what varies, nor the spaces that line it up."""
    return re.sub(r"(?<=\S) +", " ", VARYING.sub("#", text))


def _beginnings(text: str) -> list[str]:
    return [" ".join(line.split()[:1]) for line in text.split("\n")]


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def write(page: Path) -> None:
    """Put what each block prints below it, unless what stands there agrees."""
    made = [(block, text) for block, text in outputs(page) if block.shown is not None]
    lines = page.read_text(encoding="utf-8").split("\n")
    for block, text in reversed(made):
        if not agrees(block, text):
            end = lines.index("```", block.shown_line - 1)
            lines[block.shown_line - 1 : end] = text.split("\n")
    page.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for each in pages:
            write(each)
