"""Displays: what makes a result a table in a rich terminal and hypertext in a notebook."""

from __future__ import annotations

import functools
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import singledispatch
from importlib import import_module
from typing import TYPE_CHECKING, Any

from autoadapt.errors import AdaptError, Mismatch
from autoadapt.errors.printable import visible
from autoadapt.showing.hypertext import fragment
from autoadapt.showing.parts import Code, Section
from autoadapt.showing.terminal import rendered

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

_LONGEST = 100


class Shown:
    """A result that shows itself; how it looks is said by the function registered for it in `section_of`.

    Names in it may be those of strangers, so that control characters in its text stand as their escapes.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__str__" in cls.__dict__:
            cls.__str__ = _made_visible(cls.__str__)  # type: ignore[method-assign]

    def gist(self) -> str:
        """The result in a few words: by default the first line of its table."""
        return str(self).partition("\n")[0]

    def __repr__(self) -> str:
        """One short line; `str()` is the whole table."""
        said = " ".join(self.gist().split())
        return f"<{type(self).__name__} {textwrap.shorten(said, _LONGEST, placeholder=' …')}>"

    def _repr_html_(self) -> str:
        return str(fragment(section_of(self)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield from rendered(section_of(self), options.max_width)


def _made_visible(shown: Callable[[Any], str]) -> Callable[[Any], str]:
    """A `__str__` whose text no terminal obeys."""

    @functools.wraps(shown)
    def text(self: Any) -> str:
        return visible(shown(self))

    return text


@singledispatch
def section_of(result: object) -> Section:
    """A result as a section of a report: register a function for each kind of result.

    Raises:
        AdaptError: It is no result.

    Example:
        >>> class Count(Shown):
        ...     pass
        >>> @section_of.register
        ... def _(result: Count) -> Section:
        ...     return Section("Count", "three", ())
        >>> section_of(Count()).title
        'three'
    """
    found = f"{type(result).__module__}.{type(result).__qualname__}"
    fault = Mismatch("results", "a Plan, a Verification or another result", found, "net.plan, net.verify()")
    raise AdaptError("this is no result that could be shown", [fault])


@section_of.register
def _(result: Shown) -> Section:
    """How a kind looks is registered by its file in `autoadapt.reports`, which may not be imported yet."""
    if "autoadapt.reports" not in sys.modules:
        import_module("autoadapt.reports")
        return section_of(result)
    return Section("", type(result).__name__, (Code(str(result)),))
