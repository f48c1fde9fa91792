"""Docstrings as griffe wants them: `Example:`, of one example, is the section that it knows as `Examples:`."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Examples are shown as code, prompts and results in colours."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section; called for every object that is read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
