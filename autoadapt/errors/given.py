"""Given: arguments of another type than is asked for, refused by name with what to write."""

from __future__ import annotations

import inspect

from autoadapt.errors.exceptions import AdaptError, Mismatch
from autoadapt.errors.printable import visible


def check_type(
    value: object, kind: type | tuple[type, ...], argument: str, remedy: str, error: type[AdaptError] = AdaptError
) -> None:
    """Refuse a value that is not of a type.

    Raises:
        AdaptError: It is of another type.

    Example:
        >>> check_type("a page", str, "title", 'title="a page"')
    """
    if not isinstance(value, kind):
        expected = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        name = value.__name__ if isinstance(value, type) else repr(value)
        found = f"the class {name}" if isinstance(value, type) else f"{name[:60]}, of type {type(value).__name__}"
        raise error(f"`{argument}` is of another type", [Mismatch(argument, expected, visible(found), remedy)])


def check_callable(
    value: object, arguments: tuple[str, ...], argument: str, remedy: str, error: type[AdaptError] = AdaptError
) -> None:
    """Refuse what cannot be called with so many values.

    Raises:
        AdaptError: It is no function, or takes other arguments.

    Example:
        >>> check_callable(lambda event: None, ("event",), "listener", "progress(print)")
    """
    shown = f"({', '.join(arguments)})"
    found = f"{repr(value)[:60]}, of type {type(value).__name__}"
    if callable(value):
        try:
            inspect.signature(value).bind(*arguments)
            return
        except TypeError as told:
            found = f"{getattr(value, '__name__', type(value).__name__)}{inspect.signature(value)}: {told}"
        except ValueError:  # a builtin that does not tell its arguments
            return
    fault = Mismatch(argument, f"a function of {shown}", visible(found), remedy)
    raise error(f"`{argument}` cannot be called with {shown}", [fault])
