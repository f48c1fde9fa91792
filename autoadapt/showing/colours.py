"""Colours: which operations have some, in a terminal and on pages; for those see `templates/colours.css`."""

from __future__ import annotations

COLOURS = {
    "drop": "bright_black",
    "take": "bright_black",
    "rearrange": "blue",
    "flip": "blue",
    "mean": "yellow",
    "pool": "green",
    "resize": "cyan",
    "resample": "",
    "project": "bold yellow",
    "ones": "yellow",
    "cast": "magenta",
    "remask": "magenta",
    "hide": "bright_black",
    "restore": "bright_red",
    "lead": "bright_black",
    "native": "bright_green",
    "pad": "bright_cyan",
    "renormalize": "bright_yellow",
    "copy": "white",
    "channels": "red",
    "recover": "bright_blue",
    "thin": "bright_magenta",
}
"""Of an operation in a terminal, by its name in a plan, in the order in which pictures explain them."""


def kind_class(kind: str) -> str:
    """The class that gives an element the colours of an operation."""
    return f"aa-{kind}" if kind in COLOURS else "aa-plain"
