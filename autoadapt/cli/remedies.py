"""Remedies: what a text says to do in Python, as it is typed in a shell: with the options of the command at hand."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias, TypeVar

from pydantic import BaseModel

from autoadapt.errors import Mismatch

Options: TypeAlias = Mapping[str, Mapping[str, tuple[str, str]]]
"""Of all commands by name: of each parameter the option that sets it, and the one that unsets it where there is one."""

_HERE: ContextVar[tuple[str, Options] | None] = ContextVar("here", default=None)
"""The command at hand and the options of all; None outside of one."""
_FOLDER = ContextVar("folder", default="...")
"""What other commands are told to take: the folder that the one at hand writes."""
_PARAMETERS = {"pairs": "pair", "taps": "pair", "input_statistics": "statistics", "data": "images"}
"""Arguments of functions that have another name in commands."""
_FLAGS = {"inputs": "--input", "input_statistics": "--statistics", "pretrained": "--pretrained"}
_COMMANDS = {
    "adapt": ("autoadapt adapt {0} --like OLD", "NEW"),
    "assemble": ("autoadapt assemble {0}", "CONFIG"),
    "calibrate": ("autoadapt calibrate NEW --like OLD --images FOLDER",),
    "capture": ("autoadapt capture {0}", "MODEL"),
    "compare": ("autoadapt assemble {0} --compare", "CONFIG"),
    "export": ("autoadapt export {0} {1}", "MODEL", "model.onnx"),
    "fold": ("autoadapt fold FOLDER model.onnx",),
    "list_models": ("autoadapt models {0}", "PATTERN"),
    "load": ("{0}", "MODEL"),
    "plan": ("autoadapt plan NEW --like OLD",),
    "rank": ("autoadapt rank {0} --like OLD", "MODELS"),
    "regions": ("autoadapt regions {0}", "MODEL"),
    "restore": ("{0}", "FOLDER"),
    "save": ("autoadapt adapt NEW --like OLD --out {1}", "NET", "FOLDER"),
    "swap": ("autoadapt swap {0} {1} {2} --out FOLDER", "MODEL", "PATH", "NEW"),
    "to_source": ("autoadapt adapt NEW --like OLD --source {1}", "NET", "net.py"),
    "transfer": ("autoadapt transfer {0} {1}", "CHECKPOINT", "MODEL"),
    "verify": ("autoadapt verify NEW --like OLD",),
}
"""By function: the command, and what stands for the arguments that are no texts."""
_WHOLE = {
    "pretrained=False, then aa.transfer(file, model)  # with a file that you have": (
        "--random\n{new_weights} FILE --like-weights FILE  # with files that you have"
    ),
    "inputs=tensor, inputs=(first, second) or inputs={'name': tensor}": (
        "--input SPEC, one for each argument, or --input NAME=SPEC"
    ),
}
_WRITTEN = re.compile(r"""[\[{(]?(?:"\w+": )?["']?[a-z]+\d+\[""")
"""The texts of outputs, which `--like` takes as they stand."""
_SAID = re.compile(
    r"""(?<![\w.])(?:(?:aa\.)?(?P<verb>[a-z_]+)\(|[a-z_]+=(?=["'({\[]|True\b|False\b|\d|aa\.|torch\.))"""
)
"""Where a call or an argument begins in a sentence."""
_SENTENCES = {
    *("call", "cut_remark", "detail", "expected", "fault", "found", "hint", "raises_in_training", "refused", "remark"),
    *("remarks", "remedy", "says", "untraced", "verdict", "where", "why"),
}
"""The fields of results that are read by people."""
_PYTHON = re.compile(r"""[\w.]+\(.*\)|[\w.]+ ?=[^=]""")
"""What no shell takes."""

_Model = TypeVar("_Model", bound=BaseModel)


@contextlib.contextmanager
def speaking_for(command: str, options: Options) -> Iterator[None]:
    """In the block, remedies are those of a command."""
    token = _HERE.set((command, options))
    try:
        yield
    finally:
        _HERE.reset(token)


@contextlib.contextmanager
def keeping(folder: Path | None) -> Iterator[None]:
    """In the block, remedies of other commands take a folder; None where there is none."""
    token = _FOLDER.set("..." if folder is None else shlex.quote(str(folder)))
    try:
        yield
    finally:
        _FOLDER.reset(token)


def in_shell(remedy: str) -> str:
    """A remedy as an option where it is an argument of a call, or as a command; any other text as it is.

    Example:
        >>> in_shell('adapt(..., indices="recover")'), in_shell('load("timm:resnet18")')
        ('--indices recover', 'timm:resnet18')
        >>> in_shell("inputs=torch.randn(2, 3, 224, 224)"), in_shell("outputs=['1']  # if nobody reads 0")
        ("--input 'f32[2, 3, 224, 224]'", '--outputs 1  # if nobody reads 0')
        >>> print(in_shell('["f32[B, 64, H, W]", "f32[B, 8]"]'))
        --like '["f32[B, 64, H, W]", "f32[B, 8]"]'
        >>> in_shell('pairs={"c5": "layer4"}'), in_shell("allow_cost=True"), in_shell("pad to 224x256")
        ('--pair c5=layer4', '--allow-cost', 'pad to 224x256')
        >>> in_shell('aa.swap(model, "backbone", new, inputs=x)'), in_shell("numpy.save(path, array)")
        ('autoadapt swap MODEL backbone NEW --out FOLDER', 'in Python: numpy.save(path, array)')
        >>> in_shell('model = aa.swap(model, "backbone", new, inputs=x, refit="shrink")')
        'autoadapt swap MODEL backbone NEW --out FOLDER --refit shrink'
    """
    if remedy.startswith("in Python: "):
        return remedy
    if remedy in _WHOLE:
        return _WHOLE[remedy].format_map({"new_weights": "".join(_flags("new_weights")[:2])})
    call, gap, note = re.match(r"(.*?)(\s{2,}|$)(.*)", remedy, re.DOTALL).groups()  # type: ignore[union-attr]
    if _WRITTEN.match(call):
        single = _value(call)
        text = single.value if isinstance(single, ast.Constant) else call
        return f"--like {shlex.quote(str(text))}{gap}{note}"
    made = _translated(call)
    if made:
        return f"{made}{gap}{note}"
    said = sentence(remedy)
    return f"in Python: {remedy}" if said == remedy and _PYTHON.match(call) else said


def told_in_shell(value: _Model) -> _Model:
    """A result whose sentences name options in place of arguments; names, paths and other data stay as they are."""
    changed = {name: new for name, old in value if (new := _spoken(old, name in _SENTENCES)) != old}
    return value.model_copy(update=changed) if changed else value


def _spoken(value: object, is_told: bool) -> object:
    match value:
        case str() if is_told:
            return _translated(value) or sentence(value)
        case BaseModel():
            return told_in_shell(value)
        case Mismatch():
            return fault_in_shell(value)
        case tuple() if type(value) is tuple:
            return tuple(_spoken(child, is_told) for child in value)
        case dict():
            return {key: _spoken(child, is_told) for key, child in value.items()}
        case _:
            return value


def fault_in_shell(fault: Mismatch) -> Mismatch:
    """A fault in the words of the command at hand."""
    remedy = "\n".join(in_shell(line) for line in fault.remedy.splitlines())
    where, expected, found, why = map(sentence, (fault.where, fault.expected, fault.found, fault.why))
    return Mismatch(where, expected, found, remedy, why)


def sentence(text: str) -> str:
    """A text with options in place of the arguments, and commands in place of the calls, that stand in it.

    Example:
        >>> sentence("resolution='fixed' would resize; not run (thorough=True)")
        '--resolution fixed would resize; not run (--thorough)'
    """
    made, start = "", 0
    for found in _SAID.finditer(text):
        if found.start() < start or (found["verb"] and found["verb"] not in _COMMANDS):
            continue
        end = _end(text, found.end() - bool(found["verb"]))
        told = _translated(text[found.start() : end])
        made += text[start : found.start()] + (told or text[found.start() : end])
        start = end
    return made + text[start:]


def _end(text: str, start: int) -> int:
    """Where a value ends: behind its last bracket or quote, or its word."""
    depth, quote, position = 0, "", start
    while position < len(text):
        sign = text[position]
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in "([{":
            depth += 1
        elif sign in ")]}" and depth:
            depth -= 1
        elif not depth and not (sign.isalnum() or sign in "_."):
            return position
        position += 1
    return position


def _translated(call: str) -> str:
    """A call, or the arguments of one, in a shell's words; empty where it has none for it."""
    try:
        (statement,) = ast.parse(call.removesuffix(".")).body
        node = getattr(statement, "value", None)
        if isinstance(node, ast.Call) and not (isinstance(statement, ast.Assign) and len(call.split(" = ")) == 1):
            return _command(node, is_whole=isinstance(statement, ast.Assign))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        pass
    arguments = _value(f"_({call})")
    if not isinstance(arguments, ast.Call) or arguments.args or not arguments.keywords:
        return ""
    options = [_option(one.arg or "", one.value) for one in arguments.keywords]
    return " ".join(options) if all(options) else ""


def _value(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _command(call: ast.Call, *, is_whole: bool = False) -> str:
    """A call of this package as a command; where it is not all that is to be typed, as the options that it adds."""
    verb, root = (call.func.attr, call.func.value) if isinstance(call.func, ast.Attribute) else ("", call.func)
    if isinstance(root, ast.Call) and verb == "save":  # aa.capture(...).save(path)
        return f"{_command(root)} --out {_text(call.args[0], 'signature.json')}"
    name = root.id if isinstance(root, ast.Name) else ""
    verb = verb or name
    if (name not in ("aa", "autoadapt", verb) and ast.unparse(root) != "autoadapt.assembly") or verb not in _COMMANDS:
        return ""
    if call.args and isinstance(call.args[0], ast.Call) and verb == "fold":
        return _command(call.args[0])
    found = [_option(one.arg or "", one.value) for one in call.keywords]
    options = " ".join(filter(None, found))
    if verb in ("load", "restore") and not all(found):
        return ""  # a folder alone is not what these make
    if options and not is_whole and verb not in ("load", "restore"):
        return options
    template, *names = _COMMANDS[verb]
    given = [*call.args, *[None] * len(names)]
    texts = [_text(value, name) for value, name in zip(given, names, strict=False)]
    return f"{template.format(*texts)} {options}".rstrip()


def _text(value: ast.expr | None, otherwise: str) -> str:
    """A text as it is typed, or the word for what is none."""
    is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
    return shlex.quote(value.value) if is_text else otherwise  # type: ignore[union-attr]


def _option(name: str, value: ast.expr) -> str:
    """An argument and its value as options; empty where there is no such option, or no text for the value."""
    front, on, off = _flags(name)
    match value:
        case ast.Constant(value=True):
            return front + on
        case ast.Constant(value=False):
            return front + off if off else ""
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"))) if name == "inputs":
            sizes = ", ".join(map(ast.unparse, value.args))
            return f"{front}{on} 'f32[{sizes}]'" if on else ""
        case ast.Constant(value=None) | ast.Name():
            return ""
    try:
        return front + " ".join(f"{on} {shlex.quote(text)}" for text in _texts(value)) if on else ""
    except ValueError:
        return ""


def _flags(name: str) -> tuple[str, str, str]:
    """What stands before an option where another command has it; what sets a parameter, and what unsets it."""
    here = _HERE.get()
    if here is None:
        return "", _FLAGS.get(name, "--" + _PARAMETERS.get(name, name).replace("_", "-")), ""
    command, options = here
    name = _PARAMETERS.get(name, name)
    for other in (command, "adapt", "swap", *options):
        if name in options.get(other, {}):
            return "" if other == command else f"autoadapt {other} {_FOLDER.get()} ", *options[other][name]
    return "", "", ""


def _texts(value: ast.expr) -> list[str]:
    """The values of an option that may be given several times.

    Raises:
        ValueError: One has no text.
    """
    match value:
        case ast.Dict():
            return [f"{_joined(key)}={_joined(child)}" for key, child in zip(value.keys, value.values, strict=True)]
        case ast.List():
            return [_joined(child, "=") for child in value.elts]
    return [_joined(value)]


def _joined(value: ast.expr | None, sign: str = ",") -> str:
    """A value as commands take it: words in capitals for what is to be filled in."""
    match value:
        case ast.Constant(value=None):
            return "-"
        case ast.Constant():
            return "..." if value.value is ... else str(value.value)
        case ast.Name():
            return value.id.upper()
        case ast.Call() if ast.unparse(value.func).endswith("Statistics"):
            return "MEAN:STD"
        case ast.Tuple() | ast.List():
            nested = any(isinstance(child, (ast.Tuple, ast.List)) for child in value.elts)
            return (":" if nested else sign).join(_joined(child, "x" if nested else ",") for child in value.elts)
    raise ValueError("no text of a shell")
