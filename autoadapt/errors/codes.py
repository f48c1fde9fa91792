"""Codes: a short name for each message, such as AA0123, and its place in the manual.

`codes.json` has the message of each code as a template, in which `…` stands for names, numbers and paths. A code is
never given to another message: what is no longer said keeps its line, with an empty template.
"""

from __future__ import annotations

import functools
import json
import re
from importlib.resources import files

_MANUAL = "https://autoadapt.github.io/autoadapt/errors.html"
OPEN = "…"
"""Stands in a template for what is only known when it is said."""


def code_of(kinds: tuple[str, ...], summary: str) -> str:
    """The code of a message: of all templates that fit, the one that says most itself; empty if none fits.

    Args:
        kinds: The names of the error's classes, its own first; a message of its own class goes before one of another.
        summary: The first line of the error.

    Example:
        >>> code_of(("CalibrationError",), "there is no adapted module to calibrate")
        'AA1218'
    """
    found = [one for one in _patterns() if one[3].fullmatch(summary)]
    places = {kind: -place for place, kind in enumerate(kinds)}
    return max(found, key=lambda one: (places.get(one[1], -len(kinds)), len(one[2]), one[0]))[0] if found else ""


def page_of(code: str) -> str:
    """Where the manual has a code; empty without one."""
    return f"{_MANUAL}#{code.lower()}" if code else ""


def fits(template: str, text: str) -> bool:
    """Whether a text is one of those that a template stands for."""
    return _pattern(template).fullmatch(text) is not None


@functools.cache
def known_codes() -> dict[str, tuple[str, str]]:
    """The class and the template of every code."""
    text = files("autoadapt.errors").joinpath("codes.json").read_text(encoding="utf-8")
    return {code: (kind, template) for code, (kind, template) in json.loads(text).items()}


@functools.cache
def _patterns() -> list[tuple[str, str, str, re.Pattern[str]]]:
    said = {code: known for code, known in known_codes().items() if known[1]}
    return [(code, kind, template, _pattern(template)) for code, (kind, template) in said.items()]


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, template.split(OPEN))), re.DOTALL)
