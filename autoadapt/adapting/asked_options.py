"""Asked options: what a caller asks of a plan, checked where it enters, alike for every verb."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, get_args

from autoadapt.adapting.operations import Projecting, Thinning
from autoadapt.contracts.instances import is_whole
from autoadapt.errors import AdaptError, Mismatch, nearest

__all__ = ["check_asked"]

Check = Callable[[str, Any], Iterator[Mismatch]]


def check_asked(error: type[AdaptError], **asked: object) -> None:
    """Refuse options of the wrong type, and choices that there are not.

    Args:
        error: The class of the refusal.
        asked: The options, by the names that the verbs give them.

    Raises:
        AdaptError: All that is wrong, at once; of the class `error`.

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
    """Paths by path: levels of a list are numbers to people, and texts to the plan."""
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


def _grid(name: str, value: object) -> Iterator[Mismatch]:
    if value is not None and not (isinstance(value, Mapping) and all(map(_is_grid, value.values()))):
        expected = "rows, columns and, where there are any, leading and trailing tokens, by path"
        yield Mismatch(f"`{name}`", expected, _shown(value), f'{name}={{"blocks.11": (14, 14, 1)}}')


def _is_grid(value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(one, int) for one in value)


def _collection(name: str, value: object) -> Iterator[Mismatch]:
    if not isinstance(value, Collection):
        yield Mismatch(f"`{name}`", "a tuple of texts", _shown(value), f"{name}=()  # none")


def _count(name: str, value: object) -> Iterator[Mismatch]:
    if value is not None and not is_whole(value):
        yield Mismatch(f"`{name}`", "a whole number from 0", _shown(value), f"{name}=10_000_000")


def _flag(name: str, value: object) -> Iterator[Mismatch]:
    if not isinstance(value, bool):
        yield Mismatch(f"`{name}`", "True or False", _shown(value), f"{name}=False")


def _refit(name: str, value: object) -> Iterator[Mismatch]:
    if not (isinstance(value, bool) or value in ("readers", "shrink")):
        yield Mismatch(f"`{name}`", "True, False, 'readers' or 'shrink'", _shown(value), f'{name}="readers"')


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
    "project_bias": _flag,
    "refit": _refit,
    "grid": _grid,
    "convert_inputs": _collection,
    "max_parameters": _count,
}
