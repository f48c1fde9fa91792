"""Markup: elements whose texts are escaped because there is no other way to make one."""

from __future__ import annotations

import html
import unicodedata

__all__ = ["Markup", "element", "visible"]

_JOINERS = "\u200c\u200d"
"""Zero-width characters that words of some scripts, and emoji, are written with."""


class Markup(str):
    """Text that is markup already; any other text is escaped when it becomes part of an element."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """An element of HTML or SVG.

    Args:
        name: Its tag.
        children: Markup as it is, other text escaped.
        attributes: Their values, escaped; `class_` is `class`, `data_label` is `data-label`; a boolean one is "".

    Example:
        >>> element("td", "a < b", element("br"), class_="name")
        '<td class="name">a &lt; b<br></td>'
    """
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{_escaped(str(v))}"' for key, v in attributes.items())
    inside = "".join(map(_escaped, children))
    return Markup(f"<{name}{pairs}>" if name in _VOID else f"<{name}{pairs}>{inside}</{name}>")


_VOID = ("br", "link", "meta", "wbr")


def _escaped(text: str) -> str:
    return text if isinstance(text, Markup) else html.escape(visible(text), quote=True)


def visible(text: str) -> str:
    r"""A text in which what cannot be seen, or turns the direction of what follows, is written as in Python.

    Line breaks are left.

    Example:
        >>> visible("c4\x1b[31m \u202eabc")
        'c4\\x1b[31m \\u202eabc'
    """
    return "".join(char if _is_visible(char) else char.encode("unicode_escape").decode() for char in text)


def _is_visible(char: str) -> bool:
    return char == "\n" or char in _JOINERS or unicodedata.category(char) not in ("Cc", "Cf", "Cn", "Cs", "Zl", "Zp")
