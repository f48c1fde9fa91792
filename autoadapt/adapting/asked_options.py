"""Asked options: checks of the options that `plan`, `adapt`, `swap` and others share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, get_args

from autoadapt.adapting.operations import Projecting, Thinning
from autoadapt.contracts.instances import is_whole
from autoadapt.errors import AdaptError, Mismatch, nearest

Check = Callable[[str, Any], Iterator[Mismatch]]


def check_asked(error: type[AdaptError], **asked: object) -> None:
    """Refuse options of the wrong type or value.

    Raises:
        AdaptError: Some are wrong; all of them are listed.

    Example:
        >>> check_asked(AdaptError, thin="first")
    """
    faults = [fault for name, value in asked.items() for fault in _CHECKS[name](name, value)]
    if faults:
        raise error("an argument does not take this value", faults)


def _one_of(*known: str) -> Check:
    def check(name: str, value: object) -> Iterator[Mismatch]:
        if value not in known:
            expected = " or ".join([", ".join(map(repr, known[:-1])), repr(known[-1])])
            best = (nearest(value, known) if isinstance(value, str) else []) or known
            yield Mismatch(f"`{name}`", expected, _shown(value), f'{name}="{best[0]}"')

    return check


def _paths(name: str, value: object) -> Iterator[Mismatch]:
    """The check of a dict of paths by path; integers, as people write levels of a list, are shown as texts."""
    expected = "a dict of paths, as texts"
    if value is not None and not isinstance(value, Mapping):
        yield Mismatch(f"`{name}`", expected, _shown(value), f'{name}={{"path of the old output": "path in new"}}')
    elif value and not all(isinstance(one, str) for pair in value.items() for one in pair):
        texts = {str(target): str(source) for target, source in value.items()}
        yield Mismatch(f"`{name}`", expected, _shown(value), f"{name}={texts!r}")


def _names(name: str, value: object) -> Iterator[Mismatch]:
    expected = "a list of paths, as texts"
    if isinstance(value, str):
        yield Mismatch(f"`{name}`", expected, f"one text, {value!r}", f"{name}={[value]!r}")
    elif value is not None and not isinstance(value, Collection):
        yield Mismatch(f"`{name}`", expected, _shown(value), f"{name}={[str(value)]!r}")
    elif value and not all(isinstance(one, str) for one in value):
        yield Mismatch(f"`{name}`", expected, _shown(value), f"{name}={list(map(str, value))!r}")


def _is_grid(value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(one, int) for one in value)


def _are_grids(value: object) -> bool:
    return value is None or (isinstance(value, Mapping) and all(map(_is_grid, value.values())))


def _such(fits: Callable[[Any], bool], expected: str, proposed: str) -> Check:
    """The check of an option by a predicate."""

    def check(name: str, value: object) -> Iterator[Mismatch]:
        if not fits(value):
            yield Mismatch(f"`{name}`", expected, _shown(value), f"{name}={proposed}")

    return check


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _shown(value: object) -> str:
    return repr(value)[:60]


_CHECKS: Mapping[str, Check] = {
    "pairs": _paths,
    "taps": _paths,
    "outputs": _names,
    "project": _one_of(*get_args(Projecting)),
    "indices": _one_of("refuse", "recover"),
    "thin": _one_of(*get_args(Thinning)),
    "nondeterministic": _one_of("refuse", "allow"),
    "project_bias": _such(_is_flag, "True or False", "False"),
    "refit": _such(
        lambda value: _is_flag(value) or value in ("readers", "shrink"),
        "True, False, 'readers' or 'shrink'",
        '"readers"',
    ),
    "grid": _such(
        _are_grids,
        "rows, columns and, where there are any, leading and trailing tokens, by path",
        '{"blocks.11": (14, 14, 1)}',
    ),
    "convert_inputs": _such(lambda value: isinstance(value, Collection), "a tuple of texts", "()  # none"),
    "max_parameters": _such(lambda value: value is None or is_whole(value), "a whole number from 0", "10_000_000"),
}
