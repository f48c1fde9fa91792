"""Colours: of operations and of everything else, in light and in dark, as CSS variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DARK", "KINDS", "LIGHT", "Kind", "kind_class", "style_variables"]


@dataclass(frozen=True)
class Kind:
    """How an operation is explained and coloured: fill and edge, in light and in dark."""

    word: str
    says: str
    light: tuple[str, str]
    dark: tuple[str, str]


KINDS = {
    "drop": Kind("drop", "leaves leading entries out", ("#eceff2", "#6e7781"), ("#22272e", "#9198a1")),
    "take": Kind("take", "takes the class token", ("#f5e9ed", "#875063"), ("#2d1d24", "#c98fa3")),
    "rearrange": Kind("rearrange", "moves, splits, merges axes", ("#ddf1ff", "#0969da"), ("#0f2540", "#4493f8")),
    "mean": Kind("mean", "averages whole axes", ("#f0f4d4", "#687400"), ("#272b10", "#a8b83a")),
    "pool": Kind("pool", "averages cells", ("#ddf6e1", "#1a7f37"), ("#12301b", "#3fb950")),
    "resize": Kind("resize", "interpolates to exact sizes", ("#d5f4ee", "#0b7a66"), ("#0c2f2a", "#39c5ab")),
    "resample": Kind("resample", "samples at old cell centres", ("#d6f1fb", "#0a7289"), ("#0b2c36", "#3fb8d4")),
    "project": Kind("project", "learned map of channels", ("#fff0d3", "#9a6700"), ("#36290c", "#d29922")),
    "ones": Kind("ones", "one channel for the offset", ("#f7efc9", "#7a6a00"), ("#2c2810", "#c9b43a")),
    "cast": Kind("cast", "another dtype", ("#ffe4ef", "#bf3989"), ("#3b162b", "#f778ba")),
    "remask": Kind("remask", "a mask of another form", ("#ececf6", "#5a5f8a"), ("#1f2138", "#a3a8d6")),
    "hide": Kind("hide", "zeros where a mask hides", ("#eae6e1", "#6b5f52"), ("#2a2520", "#b5a694")),
    "restore": Kind("restore", "norm 1 or sum 1 as before", ("#f9e3e0", "#a8443a"), ("#3a1a17", "#ee8f85")),
    "native": Kind("native", "reads images at their own size", ("#e3f5d3", "#4d7a1f"), ("#1d2f10", "#8bc34a")),
    "pad": Kind("pad", "zeros below and to the right", ("#dcecf5", "#35677f"), ("#12283a", "#6fb1d3")),
    "renormalize": Kind("renormalize", "other mean, range, order", ("#fdeccf", "#8a5a00"), ("#33260f", "#e0a84a")),
    "copy": Kind("copy", "keeps the given tensor as it is", ("#e6eef0", "#4a6b75"), ("#1b2b30", "#86a9b4")),
    "channels": Kind("channels", "first layer reads others", ("#ffe8dc", "#bc4c00"), ("#3b200f", "#f0883e")),
    "recover": Kind("recover", "finds rows in an input", ("#e5e7ff", "#4f55d6"), ("#1e2250", "#8b93ff")),
    "thin": Kind("thin", "takes some of the points", ("#efe6ff", "#6e40c9"), ("#281f46", "#a78bfa")),
}
"""By the operation's name in a plan."""

LIGHT = {
    "back": "#ffffff",
    "panel": "#f4f6f8",
    "ink": "#1c2128",
    "muted": "#57606a",
    "line": "#d0d7de",
    "wire": "#8c959f",
    "good": "#1a7f37",
    "bad": "#cf222e",
}

DARK = {
    "back": "#0d1117",
    "panel": "#161b22",
    "ink": "#e6edf3",
    "muted": "#9ba4ae",
    "line": "#3d444d",
    "wire": "#6e7681",
    "good": "#3fb950",
    "bad": "#ff7b72",
}


def kind_class(kind: str) -> str:
    """The class that gives an element the colours of an operation."""
    return f"aa-{kind}" if kind in KINDS else "aa-plain"


def style_variables(scope: str, hosts: Mapping[str, str] | None = None) -> str:
    """Rules that set the variables under a selector, for light and dark.

    Args:
        scope: What they are set on.
        hosts: Selectors of pages that decide by themselves, by `light` and `dark`.
    """
    light = f"{scope}{{color-scheme:light dark;{_variables(LIGHT, 'light')}}}"
    dark = f"@media (prefers-color-scheme:dark){{{scope}{{{_variables(DARK, 'dark')}}}}}"
    decided = [
        f"{selector}{{color-scheme:{which};{_variables(LIGHT if which == 'light' else DARK, which)}}}"
        for which, selector in (hosts or {}).items()
    ]
    return "\n".join([light, dark, *decided])


def _variables(colours: Mapping[str, str], which: str) -> str:
    pairs = dict(colours)
    for name, kind in KINDS.items():
        pairs[f"{name}-fill"], pairs[f"{name}-edge"] = kind.light if which == "light" else kind.dark
    return "".join(f"--aa-{name}:{value};" for name, value in pairs.items())
