"""Facts: values that say what is wrong where they are made by hand, and when and with what they were made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

from autoadapt.errors import AdaptError, Mismatch
from autoadapt.errors.printable import visible
from autoadapt.versions import VERSION, package_version

__all__ = ["Dated", "Made", "MadeByHand", "first_fault", "interruptible"]

_LONGEST = 60
_WORDS = {"missing": "nothing", "extra_forbidden": "a field that there is not"}


class MadeByHand(BaseModel):
    """A fact whose constructor says what is wrong in the words of this package.

    What is read from JSON is not made here: there pydantic's own error is turned by who knows the file.

    Example:
        >>> class Count(MadeByHand):
        ...     made_by = "count(things)"
        ...     things: int
        >>> Count()
        Traceback (most recent call last):
        autoadapt.errors.AdaptError: a Count is not made like this
        things
          expected  a value
          found     nothing
          try       count(things)
    """

    made_by: ClassVar[str] = ""
    """The call that makes one, as it is typed."""
    malformed: ClassVar[type[AdaptError]] = AdaptError
    """What is raised."""

    if not TYPE_CHECKING:  # type checkers take the fields

        def __init__(self, *args: Any, **fields: Any) -> None:
            if args:
                fault = Mismatch("fields", "names for all of them", visible(repr(args[0])[:_LONGEST]), self.made_by)
                raise self.malformed(f"a {type(self).__name__} is not made like this", [fault])
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise _told(type(self), error) from None

        __init__.__pydantic_base_init__ = True  # facts that are read, or stand in another, go past it, as by default

        def model_dump_json(self, **options: Any) -> str:
            with interruptible():
                return super().model_dump_json(**options)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C while pydantic writes is Ctrl-C: pydantic makes an error of it, which `except Exception` would swallow."""
    try:
        yield
    except PydanticSerializationError as error:
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from error
        raise


class Made(BaseModel):
    """When a result was made, with what, and by which command.

    Example:
        >>> Made.now("autoadapt plan a --like b").command
        'autoadapt plan a --like b'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: str
    """In UTC, to the minute."""
    versions: dict[str, str]
    """Of this package, and of those that models come from, by name."""
    command: str = ""
    """The command line; empty where it was no command."""

    @classmethod
    def now(cls, command: str = "") -> Made:
        """What is true at this moment."""
        versions = {"autoadapt": VERSION} | {name: package_version(name) for name in ("torch", "timm", "torchvision")}
        known = {name: version for name, version in versions.items() if version}
        return cls(date=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M}", versions=known, command=command)


class Dated(MadeByHand):
    """A result that may carry when and with what it was made, as those that commands print do."""

    made: Made | None = Field(default=None, exclude_if=lambda made: made is None, repr=False)
    """No part of equality."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dated) and super().__eq__(other.model_copy(update={"made": self.made}))

    def __hash__(self) -> int:
        return hash(tuple(value for name, value in self if name != "made"))


def _told(kind: type[MadeByHand], error: ValidationError) -> AdaptError:
    faults = []
    for one in error.errors(include_url=False, include_context=False):
        place = _place(one["loc"]) or kind.__name__
        expected = "a value" if one["type"] == "missing" else _expected(one["msg"])
        found = _WORDS.get(one["type"]) or repr(one["input"])[:_LONGEST]
        faults.append(Mismatch(visible(place), visible(expected), visible(found), kind.made_by))
    return kind.malformed(f"a {kind.__name__} is not made like this", faults)


def first_fault(error: ValidationError) -> str:
    """What is wrong first in what was read, in a line."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = _place(first["loc"])
    if first["type"] in _WORDS:
        return visible(f"{_WORDS[first['type']]} at {place}")
    said = first["msg"].removeprefix("Value error, ")
    said = f"{repr(first['input'])[:_LONGEST]} in place of {_expected(said)}" if said != _expected(said) else said
    return visible(f"{place}: {said}" if place else said)


def _place(path: tuple[int | str, ...]) -> str:
    return ".".join(map(str, path))


def _expected(message: str) -> str:
    return message.removeprefix("Input should be ")
