"""Repeated options: one that takes a single value, given twice, of which all values but the last would be dropped."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

import typer


class RepeatedError(typer.BadParameter):
    """An option is given twice that takes one value."""

    def __init__(self, option: str, values: Sequence[str], context: Any) -> None:
        self.remedy = _remedy(option, values)
        super().__init__(f"{option} is given {len(values)} times and takes one value", ctx=context)

    def format_message(self) -> str:
        """What is wrong, without the words that stand before it elsewhere."""
        return self.message


def refuse_repeated(options: Sequence[Any], given: Sequence[Any], args: Sequence[str], context: Any) -> None:
    """Refuse an option that is given more often than it takes values.

    Args:
        options: All of the command.
        given: The options of a call in their order, as click's parser returns them.
        args: The words of the call.
        context: The call.

    Raises:
        RepeatedError: One is, even with the same value.
    """
    counts = Counter(one.name for one in given)
    for one in options:
        if counts[one.name] > 1 and one.param_type_name == "option" and not (one.multiple or getattr(one, "count", 0)):
            names = [*one.opts, *one.secondary_opts]
            raise RepeatedError(one.opts[-1], _values(args, names, is_flag=one.is_flag), context)


def _values(args: Sequence[str], names: Sequence[str], *, is_flag: bool) -> list[str]:
    """What stands behind each mention of an option, or the mentions of one that takes no value.

    Example:
        >>> _values(["net", "--like", "a", "--like=b"], ["--like"], is_flag=False)
        ['a', 'b']
    """
    found = []
    for index, word in enumerate(args):
        name, sign, value = word.partition("=")
        if name in names:
            found.append(word if is_flag else value if sign else "".join(args[index + 1 : index + 2]))
    return found


def _remedy(option: str, values: Sequence[str]) -> str:
    if option == "--like" and all("[" in value for value in values):
        return f"--like {shlex.quote(json.dumps(list(values)))}  # several outputs"
    shown = [value if value.startswith("-") else f"{option} {shlex.quote(value)}" for value in dict.fromkeys(values)]
    return "\n".join(shown)
