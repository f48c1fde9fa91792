"""Inlining: the functions of `leaves` and `layers` that a file needs, as they stand there, with their imports."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Collection, Mapping
from functools import cache

from autoadapt.adapting import layers, mask_layers, token_layers
from autoadapt.contracts import leaves

_IMPORTS = {
    "Any": "from typing import Any",
    "F": "import torch.nn.functional as F",
    "Mapping": "from collections.abc import Mapping",
    "NoReturn": "from typing import NoReturn",
    "OrderedDict": "from collections import OrderedDict",
    "TypeAlias": "from typing import TypeAlias",
    "math": "import math",
    "nn": "from torch import nn",
    "partial": "from functools import partial",
    "threading": "import threading",
    "torch": "import torch",
}
_LETTERS = """# Dimension letters: B batch, C and D channels, M points taken, N points to take from,
# K columns of a point."""


def inlined(names: Collection[str]) -> tuple[list[str], list[str]]:
    """The source of these functions and classes, and of all that they use, in the order of `leaves` and `layers`.

    Returns:
        What stands at the top of the file, and the functions and classes.
    """
    wanted, left = set[str](), list(names)
    known = _definitions()
    while left:
        name = left.pop()
        if name in known and name not in wanted:
            wanted.add(name)
            left += names_in(known[name])
    parts = [text for name, text in known.items() if name in wanted]
    below = [part for part in parts if part.startswith(("def ", "class "))]
    above = [part for part in parts if part not in below]
    if any(re.search(r"\b\w+_[A-Z][A-Z0-9a-z]*\b", part) for part in below):
        above.append(_LETTERS)
    return above, below


@cache
def _definitions() -> dict[str, str]:
    """What `leaves` and the files of layers define, by name, as text."""
    found: dict[str, str] = {}
    for text in map(inspect.getsource, (leaves, layers, mask_layers, token_layers)):
        found |= _defined(text)
    return found


def _defined(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in ast.parse(text).body:
        segment = ast.get_source_segment(text, node) or ""
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = segment
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = segment
    return found


def names_in(text: str) -> set[str]:
    """The names that a piece of Python reads, annotations too."""
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def import_lines(text: str, others: Mapping[str, str]) -> str:
    """The imports of a file, sorted as ruff and isort sort them.

    Args:
        text: The file without them.
        others: Further lines, by the name that they give.
    """
    used = names_in(text)
    lines = {line for name, line in {**_IMPORTS, **others}.items() if name in used}
    merged = _merged(lines)
    standard = [line for line in merged if re.split(r"[ .]", line)[1] in _STANDARD]
    sections = [["from __future__ import annotations"], standard, [line for line in merged if line not in standard]]
    return "\n\n".join("\n".join(section) for section in sections if section)


_STANDARD = ("collections", "functools", "math", "threading", "typing")


def _merged(lines: Collection[str]) -> list[str]:
    """Lines that import from one module as one, `import x` before `from x import y`."""
    plain = sorted(line for line in lines if line.startswith("import "))
    taken: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("from "):
            module, names = line.removeprefix("from ").split(" import ")
            taken.setdefault(module, []).append(names)
    return [*plain, *(f"from {module} import {', '.join(sorted(taken[module]))}" for module in sorted(taken))]
