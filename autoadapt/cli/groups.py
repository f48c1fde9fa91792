"""Groups: typer's commands with errors of one line, and completion of names that have a colon in them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from autoadapt.cli.outcomes import BAD_CALL, STOPPED, complain
from autoadapt.cli.remedies import Options, speaking_for
from autoadapt.errors import Mismatch
from autoadapt.showing.tables import fitting

NARROWEST = 40
"""Columns below which nothing is narrowed further."""
_PYDANTIC = re.compile(r"\bInput should be\b")
"""How some versions of typer have it, by which nobody knows what the input is."""
_UsageError = cast("type[Exception]", typer.BadParameter.__base__)
"""Whatever is wrong with a call, by the name that every version of typer has for it."""


class Group(TyperGroup):
    """All commands."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and exit with its code; what is wrong with the call is a line and a remedy."""

        def run(standalone: bool) -> Any:
            return super(Group, self).main(args, prog_name, complete_var, standalone, windows_expand_args, **extra)

        if not standalone_mode:
            return run(False)
        if os.environ.get("_AUTOADAPT_COMPLETE") == "complete_bash":
            _complete_in_bash(lambda: run(True))
        try:
            with _working_folder():
                code = run(False)
        except _UsageError as error:
            _complain_of_call(error, args)
            code = BAD_CALL
        except (typer.Abort, KeyboardInterrupt):
            code = STOPPED
        sys.exit(code if isinstance(code, int) else 0)


class Command(TyperCommand):
    """A command, whose errors and results say what to do by its own options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read its words; an option that takes one value may be given once."""
        if not ctx.resilient_parsing:
            given = self.make_parser(ctx).parse_args(list(args))[2]
            refuse_repeated(self.params, given, args, ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        words = speaking_for(self.name or "", _options(ctx.find_root().command))
        with words, fitting(max(shutil.get_terminal_size().columns, NARROWEST)):
            return super().invoke(ctx)


def _options(group: Any) -> Options:
    found = {}
    for name, command in getattr(group, "commands", {}).items():
        options = [one for one in command.params if one.param_type_name == "option"]
        found[name] = {one.name: (one.opts[-1], "".join(one.secondary_opts[:1])) for one in options}
    return found


@contextlib.contextmanager
def _working_folder() -> Iterator[None]:
    """Modules of the working folder can be named, which `python -m` looks into and a console script does not."""
    before = list(sys.path)
    sys.path[:] = before if "" in before else ["", *before]
    try:
        yield
    finally:
        sys.path[:] = before


def _complete_in_bash(complete: Callable[[], object]) -> None:
    """Bash takes `timm:resnet18` for three words, and only puts in what follows the last colon."""
    words, number = joined(os.environ.get("COMP_WORDS", "").split("\n"), int(os.environ.get("COMP_CWORD", "0")))
    current = words[number] if number < len(words) else ""
    os.environ.update(COMP_WORDS="\n".join(words), COMP_CWORD=str(number))
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        complete()
    known = len(current) - len(current.rpartition(":")[2])
    sys.stdout.write("".join(f"{line[known:]}\n" for line in printed.getvalue().split()))
    sys.exit(0)


def joined(words: Sequence[str], number: int) -> tuple[list[str], int]:
    """Words that bash has parted at colons and equals signs, put together, and where the current one is now.

    Example:
        >>> joined(["autoadapt", "plan", "timm", ":", "res", "--like", "=", "timm", ":"], 8)
        (['autoadapt', 'plan', 'timm:res', '--like', 'timm:'], 4)
    """
    made: list[str] = []
    open_end, current = False, number
    for index, word in enumerate(words):
        is_equals = word == "=" and bool(made) and made[-1].startswith("--")
        if not is_equals and made and (word == ":" or open_end):
            made[-1] += word
        elif not is_equals:
            made.append(word)
        open_end = word == ":"
        if index == number:
            current = len(made) - 1 + is_equals
    return made, max(current, len(made) if number >= len(words) else current)


def _complain_of_call(error: Any, args: Sequence[str] | None) -> None:
    """A line and a remedy, where click prints a usage, a hint and a box."""
    given = sys.argv[1:] if args is None else args
    names: list[str] = []
    context = getattr(error, "ctx", None)
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    command = " ".join(["autoadapt", *names])
    fault = Mismatch(command, "", "", getattr(error, "remedy", f"{command} --help"))
    complain(
        command,
        _PYDANTIC.sub("it should be", error.format_message().replace("Value error, ", "")).rstrip("."),
        [fault],
        "--json" in given,
    )


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
