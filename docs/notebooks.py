"""Notebooks: a tutorial as a file for Jupyter, from the same page that the manual shows and the tests run.

python docs/notebooks.py docs/tutorials/detector.md detector.ipynb
"""

from __future__ import annotations

import json
import re
import sys
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
    cells, read = [_cell("code", f"# {_INSTALL}  # where it is not installed")], 0
    for found in _PARTS.finditer(markdown):
        cells += [_cell("markdown", markdown[read : found.start()]), _cell("code", found["code"])]
        read = found.end()
    cells.append(_cell("markdown", markdown[read:]))
    kept = [cell for cell in cells if cell["source"]]
    for number, cell in enumerate(kept):
        cell["id"] = f"cell-{number}"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": kept, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def _cell(kind: str, text: str) -> dict[str, Any]:
    plain = _COMMENT.sub("", text) if kind == "markdown" else text
    own = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": plain.strip().splitlines(keepends=True), **own}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(notebook(Path(sys.argv[1]).read_text(encoding="utf-8")), encoding="utf-8")
