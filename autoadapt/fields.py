"""Fields: what is missing or wrong among the fields of a fact that is made by hand, told as faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ValidationError

from autoadapt.errors import AdaptError, Mismatch
from autoadapt.printable import visible

__all__ = ["MadeByHand"]

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


def _told(kind: type[MadeByHand], error: ValidationError) -> AdaptError:
    faults = []
    for one in error.errors(include_url=False, include_context=False):
        place = ".".join(map(str, one["loc"])) or kind.__name__
        expected = "a value" if one["type"] == "missing" else one["msg"].removeprefix("Input should be ")
        found = _WORDS.get(one["type"]) or repr(one["input"])[:_LONGEST]
        faults.append(Mismatch(visible(place), visible(expected), visible(found), kind.made_by))
    return kind.malformed(f"a {kind.__name__} is not made like this", faults)
