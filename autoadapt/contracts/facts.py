"""Facts: the frozen pydantic models of this package, their error messages, and the record of how a result was made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

from autoadapt.errors import AdaptError, Mismatch
from autoadapt.errors.printable import visible
from autoadapt.versions import VERSION, package_version

_LONGEST = 60
_WORDS = {"missing": "nothing", "extra_forbidden": "a field that there is not"}
_KINDS = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "True or False",
    "tuple": "a list or tuple",
    "list": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "missing": "a value",
    "none": "nothing",
}
"""What was expected, by the first word of pydantic's error type (`string_type`, `int_parsing`)."""


class MadeByHand(BaseModel):
    """A frozen model whose constructor raises this package's errors in place of pydantic's.

    Only the constructor does: validation from JSON still raises `ValidationError`, for whoever knows the file's name.

    Example:
        >>> class Count(MadeByHand):
        ...     made_by = "count(things)"
        ...     things: int
        >>> try:
        ...     Count()
        ... except AdaptError as error:
        ...     print(error.summary, *error.mismatches, sep=": ")
        a Count is not made like this: things
          expected  a value
          found     nothing
          try       count(things)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    made_by: ClassVar[str] = ""
    """A call that makes one, for the remedy of errors."""
    malformed: ClassVar[type[AdaptError]] = AdaptError
    """The exception that the constructor raises."""

    if not TYPE_CHECKING:  # type checkers take the fields

        def __init__(self, *args: Any, **fields: Any) -> None:
            if args:
                fault = Mismatch("fields", "names for all of them", visible(repr(args[0])[:_LONGEST]), self.made_by)
                raise _not_made(type(self), [fault], self.malformed)
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise _not_made(type(self), list(_faults(type(self), error)), self.malformed) from None

        __init__.__pydantic_base_init__ = True  # validation from JSON, and of nested models, does not call `__init__`

        def __setattr__(self, name: str, value: object) -> None:
            try:
                super().__setattr__(name, value)
            except ValidationError:
                raise _frozen(self, name, repr(value), self.malformed) from None

        def __delattr__(self, name: str) -> None:
            try:
                super().__delattr__(name)
            except ValidationError:
                raise _frozen(self, name, "nothing", self.malformed) from None

        def __copy__(self) -> MadeByHand:
            made = super().__copy__()
            for name in vars(made).keys() - type(self).model_fields.keys():
                del vars(made)[name]  # worked out from fields, of which `model_copy` may change some
            return made

        def model_dump_json(self, **options: Any) -> str:
            with interruptible():
                return super().model_dump_json(**options)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `KeyboardInterrupt` where pydantic wraps it in a serialization error, which `except Exception` catches."""
    try:
        yield
    except PydanticSerializationError as error:
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from error
        raise


class Made(BaseModel):
    """When a result was made, with what, and by which command.

    Example:
        >>> with commanded("autoadapt plan a --like b"):
        ...     Made.now().command
        'autoadapt plan a --like b'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: str
    """In UTC, to the minute: now, or the time in `SOURCE_DATE_EPOCH`, which makes files reproducible."""
    versions: dict[str, str]
    """Of this package, torch, timm and torchvision, as far as they are installed."""
    command: str = ""
    """The command line; empty where Python called."""

    def __str__(self) -> str:
        return f"{self.date} UTC with {', '.join(f'{name} {version}' for name, version in self.versions.items())}"

    @classmethod
    def now(cls) -> Made:
        """The record for a result that is made now."""
        versions = {"autoadapt": VERSION} | {name: package_version(name) for name in ("torch", "timm", "torchvision")}
        known = {name: version for name, version in versions.items() if version}
        return cls(date=f"{_moment():%Y-%m-%d %H:%M}", versions=known, command=_COMMAND.get())


def _moment() -> datetime:
    """Now, or the time in `SOURCE_DATE_EPOCH`, in seconds since 1970 (https://reproducible-builds.org)."""
    told = os.environ.get("SOURCE_DATE_EPOCH", "")
    is_told = told.isdecimal() and len(told) < 12  # a year of four digits
    return datetime.fromtimestamp(int(told), timezone.utc) if is_told else datetime.now(timezone.utc)


_COMMAND = ContextVar("command", default="")


@contextlib.contextmanager
def commanded(line: str) -> Iterator[None]:
    """Results made in the block carry this command line."""
    token = _COMMAND.set(line)
    try:
        yield
    finally:
        _COMMAND.reset(token)


class Dated(MadeByHand):
    """A result that may carry the record of how it was made."""

    made: Made | None = Field(default=None, exclude_if=lambda made: made is None, repr=False)
    """Not compared by `==`."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dated) and super().__eq__(other.model_copy(update={"made": self.made}))

    def __hash__(self) -> int:
        return hash(tuple(value for name, value in self if name != "made"))


def _not_made(kind: type[BaseModel], faults: Sequence[Mismatch], error: type[AdaptError]) -> AdaptError:
    return error(f"a {kind.__name__} is not made like this", faults)


def _frozen(fact: MadeByHand, name: str, found: str, error: type[AdaptError]) -> AdaptError:
    remedy = fact.made_by or 'fact.model_copy(update={"name": value}) makes another'
    told = visible(repr(getattr(fact, name)))[:_LONGEST] if hasattr(fact, name) else "no such field"
    fault = Mismatch(name, told, visible(found)[:_LONGEST], remedy)
    return error(f"a {type(fact).__name__} does not change", [fault])


def _faults(kind: type[MadeByHand], error: ValidationError) -> Iterator[Mismatch]:
    for one in error.errors(include_url=False):
        place = _place(one["loc"]) or kind.__name__
        is_own = one["type"] == "extra_forbidden" and len(one["loc"]) == 1
        expected = f"one of {', '.join(kind.model_fields)}" if is_own else asked_for(one)
        found = _WORDS.get(one["type"]) or repr(one["input"])[:_LONGEST]
        yield Mismatch(visible(place), visible(expected), visible(found), kind.made_by)


def asked_for(fault: Mapping[str, Any]) -> str:
    """The `expected` text of one of pydantic's errors.

    Args:
        fault: An item of `ValidationError.errors()`.

    Example:
        >>> asked_for({"type": "string_type", "msg": "Input should be a valid string", "ctx": {}})
        'a text'
    """
    context, kind = fault.get("ctx", {}), str(fault["type"])
    if kind in ("extra_forbidden", "no_such_attribute"):
        return "no such field"
    if (kind in ("model_type", "is_instance_of") and "class_name" in context) or kind == "is_instance_of":
        return f"a {context.get('class_name') or context.get('class')}"
    if kind in ("too_short", "too_long"):
        most = context.get("min_length", context.get("max_length"))
        return f"at {'least' if kind == 'too_short' else 'most'} {most} of them"
    said = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return _KINDS.get(kind.partition("_")[0], said.removeprefix("Input should be "))


def first_fault(error: ValidationError) -> str:
    """The first of pydantic's errors, in a line."""
    first = error.errors(include_url=False)[0]
    place = _place(first["loc"])
    if first["type"] in _WORDS:
        return visible(f"{_WORDS[first['type']]} at {place}")
    said = asked_for(first)
    if first["msg"].startswith("Input should be "):
        said = f"{repr(first['input'])[:_LONGEST]} in place of {said}"
    return visible(f"{place}: {said}" if place else said)


def _place(path: tuple[int | str, ...]) -> str:
    return ".".join(map(str, path))
