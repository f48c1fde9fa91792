"""Patterns: parsing of einops notation."""

from __future__ import annotations


def axis_groups(pattern: str) -> tuple[list[list[str]], list[list[str]]]:
    """Both sides of an einops pattern, each axis as the list of its names; `1` is a unit axis without name.

    Example:
        >>> axis_groups("b (h w) c -> b c h w")
        ([['b'], ['h', 'w'], ['c']], [['b'], ['c'], ['h'], ['w']])
    """
    left, _, right = pattern.partition("->")
    return _groups(left), _groups(right)


def _groups(side: str) -> list[list[str]]:
    """The groups of one side of a pattern: names in brackets together, others alone."""
    groups: list[list[str]] = []
    inside = False
    for token in side.replace("(", " ( ").replace(")", " ) ").split():
        if token == "(":
            groups.append([])
        elif token != ")":
            names = [] if token == "1" else [token]
            if inside:
                groups[-1] += names
            else:
                groups.append(names)
        inside = token == "(" or (inside and token != ")")
    return groups
