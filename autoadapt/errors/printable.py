"""Printable: names that strangers chose, as text that a terminal, a page or a file of Python only shows."""

from __future__ import annotations

import keyword
import unicodedata

_UNSAFE = {"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"}
"""Categories of Unicode: controls, formats (with those that turn the direction), what is unassigned, surrogates,
separators of lines."""
_JOINERS = "\u200c\u200d"
"""Characters without width that words of some scripts, and emoji, are written with."""


def visible(text: str) -> str:
    r"""A text in which control characters stand as their escapes; line breaks and tabs stay.

    Example:
        >>> print(visible("red \x1b[31m \u202e and\nnext"))
        red \x1b[31m \u202e and
        next
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(char) for char in text)


def is_plain_name(text: str) -> bool:
    r"""Whether a text is one line without control characters.

    Example:
        >>> is_plain_name("layer4.0"), is_plain_name("größe"), is_plain_name("a\nb"), is_plain_name("\x9b")
        (True, True, False, False)
    """
    return not any(unicodedata.category(char) in _UNSAFE for char in text)


def is_python_name(text: str) -> bool:
    """Whether a text may stand for an argument or a field in code.

    Example:
        >>> is_python_name("x"), is_python_name("x=1"), is_python_name("lambda"), is_python_name("__debug__")
        (True, False, False, False)
    """
    return text.isidentifier() and not keyword.iskeyword(text) and text != "__debug__"


def _shown(char: str) -> str:
    if char in "\n\t" + _JOINERS or unicodedata.category(char) not in _UNSAFE:
        return char
    return char.encode("unicode_escape").decode("ascii")
