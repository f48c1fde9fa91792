"""A pattern: how a person names many tensors at once, and how a report does.

What a report prints (`stage{2..4}.*`) is itself a pattern and can be pasted back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from autoadapt.contracts.instances import paths_above

Pattern: TypeAlias = str | re.Pattern[str]
"""Dotted segments (`stage2`), a glob (`head.*`, `stage{2..4}.*`), `re:` and a regex, or a compiled regex."""

_TOKEN = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*)\}|(\*)|(\?)|\[([^\]]+)\]|([^{*?\[]+|.)", re.DOTALL)
_DIGITS = re.compile(r"(\d+)")


def pattern_text(pattern: Pattern) -> str:
    """A pattern as one would write it in a call.

    Example:
        >>> pattern_text(re.compile("^fc"))
        're:^fc'
    """
    return pattern if isinstance(pattern, str) else f"re:{pattern.pattern}"


def matcher(pattern: Pattern) -> Callable[[str], bool]:
    """The test that a pattern stands for.

    Plain text means dotted segments, by equality, from the first on, as the pose networks'
    `PRETRAINED_LAYERS` does; a glob has to fit the whole name; a regex is searched.

    Raises:
        re.error: If a regex is malformed.

    Example:
        >>> [matcher("stage2")(name) for name in ("stage2.0.weight", "stage20.weight")]
        [True, False]
        >>> [matcher("stage{2..4}.*")(name) for name in ("stage3.0.weight", "stage5.0.weight")]
        [True, False]
        >>> matcher(r"re:conv\\d$")("layer1.conv2")
        True
    """
    if isinstance(pattern, re.Pattern):
        return lambda name: pattern.search(name) is not None
    if pattern.startswith("re:"):
        return matcher(re.compile(pattern.removeprefix("re:")))
    if pattern == "*":
        return lambda name: True
    if any(char in pattern for char in "*?[{"):
        glob = re.compile("".join(map(_token_regex, _TOKEN.finditer(pattern))), re.DOTALL)
        return lambda name: glob.fullmatch(name) is not None
    segments = pattern.rstrip(".")
    return lambda name: name == segments or name.startswith(segments + ".")


def _token_regex(token: re.Match[str]) -> str:
    first, last, choices, star, question, letters, literal = token.groups()
    if first is not None:
        return "(?:" + "|".join(map(str, range(int(first), int(last) + 1))) + ")"
    if choices is not None:
        return "(?:" + "|".join(map(re.escape, choices.split(","))) + ")"
    if star:
        return ".*"
    if question:
        return "."
    if letters is not None:
        return f"[{'^' + letters[1:] if letters[0] == '!' else letters}]"
    return re.escape(literal)


def merged(names: Iterable[str], among: Iterable[str] | None = None) -> list[str]:
    """Say many names in few patterns.

    A module all of whose tensors are named becomes `module.*`; names that differ in one number
    become a range.

    Args:
        names: The names to say.
        among: All names of that side, which tell what a whole module is; without them only numbers merge.

    Example:
        >>> merged(["s.2.w", "s.3.w", "s.4.w", "fc.weight", "fc.bias"],
        ...        ["s.1.w", "s.2.w", "s.3.w", "s.4.w", "fc.weight", "fc.bias"])
        ['s.{2..4}.*', 'fc.*']
    """
    chosen = list(dict.fromkeys(names))
    whole = set() if among is None else _whole_modules(chosen, among)
    said = (next((f"{prefix}.*" for prefix in paths_above(name) if prefix in whole), name) for name in chosen)
    return _ranges(list(dict.fromkeys(said)))


def _whole_modules(chosen: Sequence[str], among: Iterable[str]) -> set[str]:
    inside = {prefix for name in chosen for prefix in paths_above(name)}
    members = set(chosen)
    broken = {prefix for name in among if name not in members for prefix in paths_above(name)}
    return inside - broken


def _ranges(names: list[str]) -> list[str]:
    rows = [tuple(_DIGITS.split(name)) for name in names]
    longest = max(map(len, rows), default=0)
    for position in reversed(range(1, longest, 2)):
        rows = _merge_at(rows, position)
    return ["".join(row) for row in rows]


def _merge_at(rows: list[tuple[str, ...]], position: int) -> list[tuple[str, ...]]:
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for row in rows:
        mergeable = position < len(row) and row[position] == str(int(row[position]))
        rest = (*row[:position], "#", *row[position + 1 :]) if mergeable else row
        groups.setdefault(rest, []).append(row)
    return [
        group[0] if len(group) == 1 else (*rest[:position], _braces(group, position), *rest[position + 1 :])
        for rest, group in groups.items()
    ]


def _braces(group: list[tuple[str, ...]], position: int) -> str:
    numbers = sorted({int(row[position]) for row in group})
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    return "{" + ",".join(map(str, numbers)) + "}"
