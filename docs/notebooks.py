"""Notebooks and scripts: a tutorial as a file to run, from the same page that the manual shows and the tests run.

python docs/notebooks.py docs/tutorials/detector.md detector.ipynb  # or detector.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PARTS = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\s*(?:<!-- figures vary -->\s*)?^```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL
)
"""Python, with what it prints below it, which the notebook prints itself."""
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_INSTALL = '%pip install -q "autoadapt[zoo]"'


def notebook(markdown: str) -> str:
    """A page as the text of a notebook without outputs.

    Example:
        >>> made = json.loads(notebook("# Title\\n\\n```python\\nprint(1)\\n```\\n\\n```text\\n1\\n```\\n\\nEnd.\\n"))
        >>> [(cell["cell_type"], "".join(cell["source"])) for cell in made["cells"][1:]]
        [('markdown', '# Title'), ('code', 'print(1)'), ('markdown', 'End.')]
    """
    cells = [_cell("code", f"# {_INSTALL}  # where it is not installed")]
    cells += [_cell(kind, text) for kind, text in _parts(markdown)]
    kept = [cell for cell in cells if cell["source"]]
    for number, cell in enumerate(kept):
        cell["id"] = f"cell-{number}"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": kept, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def script(markdown: str) -> str:
    """A page as a file of Python: its text as comments, without what is printed.

    Example:
        >>> print(script("# Title\\n\\n```python\\nprint(1)\\n```\\n\\n```text\\n1\\n```\\n\\nEnd.\\n"))
        # # Title
        <BLANKLINE>
        print(1)
        <BLANKLINE>
        # End.
        <BLANKLINE>
    """
    parts = ((kind, text.strip()) for kind, text in _parts(markdown) if text.strip())
    return "\n\n".join(text if kind == "code" else _commented(text) for kind, text in parts) + "\n"


def _commented(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.split("\n"))


def _parts(markdown: str) -> Iterator[tuple[str, str]]:
    """Text and code in turn."""
    read = 0
    for found in _PARTS.finditer(markdown):
        yield "markdown", _COMMENT.sub("", markdown[read : found.start()])
        yield "code", found["code"]
        read = found.end()
    yield "markdown", _COMMENT.sub("", markdown[read:])


def _cell(kind: str, text: str) -> dict[str, Any]:
    own = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": text.strip().splitlines(keepends=True), **own}


MAKERS = {".ipynb": notebook, ".py": script}
"""What makes a page into a file, by its ending."""


if __name__ == "__main__":
    page, made = map(Path, sys.argv[1:])
    made.write_text(MAKERS[made.suffix](page.read_text(encoding="utf-8")), encoding="utf-8")
