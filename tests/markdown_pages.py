"""Pages of markdown whose python blocks run, in order, and print what stands in the text block below them.

`python tests/markdown_pages.py PAGE...` writes below each block what it prints now, where a text block is there.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
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
        not_run: Why it is not run; empty where it is.
        section: The heading, or the bold words, above.
    """

    page: Path
    line: int
    code: str
    shown: str | None
    shown_line: int
    not_run: str
    section: str


def blocks(page: Path) -> list[Block]:
    """The python blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").split("\n")
    found: list[Block] = []
    section, reason, i = "", "", 0
    while i < len(lines):
        heading = re.match(r"#+ (.+)|\*\*(.+?)\*\*", lines[i])
        section = next(filter(None, heading.groups())) if heading else section
        skipped = NOT_RUN.fullmatch(lines[i])
        reason = skipped[1] if skipped else reason
        if lines[i].startswith("```"):
            end = lines.index("```", i + 1)
            if lines[i] == "```python":
                shown_at, shown = _shown(lines, end + 1)
                code = "\n".join(lines[i + 1 : end])
                found.append(Block(page, i + 2, code, shown, shown_at, reason, section))
            reason, i = "", end
        i += 1
    return found


def _shown(lines: list[str], start: int) -> tuple[int, str | None]:
    """The text block that follows at once, or after an empty line."""
    at = start + (lines[start : start + 1] == [""])
    if at >= len(lines) or lines[at] not in ("```", "```text"):
        return 0, None
    return at + 2, "\n".join(lines[at + 1 : lines.index("```", at + 1)])


def outputs(page: Path, namespace: dict[str, object] | None = None) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in one namespace, and give what each prints."""
    torch.manual_seed(0)
    names = {"__name__": "__page__"} if namespace is None else namespace
    for block in blocks(page):
        if not block.not_run:
            yield block, printed(block, names)


def printed(block: Block, names: dict[str, object]) -> str:
    """What a block prints; a traceback shows its lines in the page."""
    code = compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return _tidy(out.getvalue())


def agrees(shown: str, text: str) -> bool:
    """Whether a page shows what was printed; `...` stands for anything."""
    return doctest.OutputChecker().check_output(_tidy(shown) + "\n", _tidy(text) + "\n", doctest.ELLIPSIS)


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def write(page: Path) -> None:
    """Put what each block prints below it, unless what stands there agrees."""
    made = [(block, text) for block, text in outputs(page) if block.shown is not None]
    lines = page.read_text(encoding="utf-8").split("\n")
    for block, text in reversed(made):
        assert block.shown is not None
        if not agrees(block.shown, text):
            end = lines.index("```", block.shown_line - 1)
            lines[block.shown_line - 1 : end] = text.split("\n")
    page.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for each in pages:
            write(each)
