"""Error texts: every message that the source can raise, with what it expects, finds and says to do, read by `ast`.

A text is a template: what is only known when it is raised stands as `…`. Names are followed to what was last put into
them, calls to what the called function of the package returns; an error that carries another's summary is left out.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autoadapt.errors import exceptions
from autoadapt.errors.codes import OPEN, fits

PACKAGE = Path(exceptions.__file__).parents[1]
CLASSES = {
    name: value
    for name, value in vars(exceptions).items()
    if isinstance(value, type) and issubclass(value, exceptions.AdaptError)
}
DEPTH = 4
"""So many names and calls are followed."""


@dataclass(frozen=True)
class Fault:
    """A `Mismatch` as the source writes it: the templates that each of its texts may be."""

    expected: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()


@dataclass(frozen=True)
class ErrorText:
    """A message of one class."""

    kind: str
    summary: str
    faults: tuple[Fault, ...]

    def fits(self, summary: str) -> bool:
        """Whether a summary that was raised is one of these."""
        return fits(self.summary, summary)


@functools.cache
def error_texts(package: Path = PACKAGE) -> tuple[ErrorText, ...]:
    """Every message of the package, by class, in the order of the alphabet."""
    reader = _reader(package)
    found: dict[tuple[str, str], list[Fault]] = {}
    for call in reader.raised:
        faults = list(reader.faults(call.args[1], DEPTH)) if len(call.args) > 1 else []
        kind = _name(call) if _name(call) in CLASSES else reader.inside.get(_name(call), "AdaptError")
        for summary in filter(_says, reader.texts(call.args[0], DEPTH)):
            found.setdefault((kind, summary), []).extend(faults)
    order = list(CLASSES)
    keys = sorted(found, key=lambda key: (order.index(key[0]), key[1].lstrip(f"`{OPEN} ").lower(), key[1]))
    return tuple(ErrorText(*key, tuple(one for one in dict.fromkeys(found[key]) if one != Fault())) for key in keys)


def unread(package: Path = PACKAGE) -> list[str]:
    """Places whose message cannot be read off the source, `file:line`; there should be none."""
    reader = _reader(package)
    return [
        f"{reader.file[call].relative_to(package)}:{call.lineno}"
        for call in reader.raised
        if not reader.passes_on(call.args[0]) and not any(map(_says, reader.texts(call.args[0], DEPTH)))
    ]


@functools.cache
def _reader(package: Path) -> Reader:
    return Reader(package)


class Reader:
    """All files of a package, parsed: who stands around what, and the functions by name."""

    def __init__(self, package: Path) -> None:
        self.parent: dict[ast.AST, ast.AST] = {}
        self.file: dict[ast.AST, Path] = {}
        self.functions: dict[str, list[ast.FunctionDef]] = {}
        self.calls: dict[str, list[ast.Call]] = {}
        for path in sorted(package.rglob("*.py")):
            self._read(path)
        self.inside = {
            node.name: base.id
            for node in self.file
            if isinstance(node, ast.ClassDef)
            for base in node.bases
            if isinstance(base, ast.Name) and base.id in CLASSES and node.name not in CLASSES
        }
        """Classes of errors that stand beside what raises them, and what they are to a caller."""
        made = [call for name in (*CLASSES, *self.inside) for call in self.calls.get(name, [])]
        made += [call for call in self.calls.get("error", []) if self._is_handed_over(call)]
        self.raised = [call for call in made if isinstance(call.func, ast.Name) and call.args]

    def _read(self, path: Path) -> None:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            self.file[node] = path
            for child in ast.iter_child_nodes(node):
                self.parent[child] = node
            if isinstance(node, ast.FunctionDef):
                self.functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Call):
                self.calls.setdefault(_name(node), []).append(node)

    def _is_handed_over(self, call: ast.Call) -> bool:
        """Whether what is called is an argument of the function around it, a class of errors."""
        node: ast.AST = call
        while not isinstance(node, (ast.FunctionDef, ast.Module)):
            node = self.parent[node]
        every = () if isinstance(node, ast.Module) else (*node.args.args, *node.args.kwonlyargs)
        return any(
            one.arg == "error" and ast.unparse(one.annotation or ast.Constant("")).startswith("type[") for one in every
        )

    def texts(self, node: ast.AST, depth: int) -> list[str]:
        """The templates that an expression may be."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.IfExp(body=left, orelse=right):
                return [*self.texts(left, depth), *self.texts(right, depth)]
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return _joined([self.texts(left, depth), self.texts(right, depth)])
            case ast.JoinedStr(values=values):
                return _joined([self.texts(value, depth) for value in values])
            case ast.FormattedValue(value=ast.IfExp() as value):
                return self.texts(value, 0)
            case ast.BoolOp(values=values):
                return [text for value in values for text in self.texts(value, depth)]
            case ast.Name() | ast.Call() if depth:
                made = [text for value in self._behind(node) for text in self.texts(value, depth - 1)]
                return list(dict.fromkeys(made)) or [OPEN]
        return [OPEN]

    def faults(self, node: ast.AST, depth: int) -> Iterator[Fault]:
        """The faults that an expression holds: written there, in lists that are filled, made by helpers."""
        for one in ast.walk(node):
            if isinstance(one, ast.Call) and _name(one) == "Mismatch":
                yield self._fault(one)
            elif isinstance(one, ast.Attribute) and one.attr == "faults" and depth:
                for value in self._filled(self.file[node]):
                    yield from self.faults(value, min(depth - 1, 2))
            elif isinstance(one, (ast.Name, ast.Call)) and depth:
                for value in self._behind(one):
                    yield from self.faults(value, depth - 1)

    def passes_on(self, node: ast.AST) -> bool:
        """Whether a summary is that of another error, or of a result, which is listed where it is made."""
        named = [node, *(self._behind(node) if isinstance(node, ast.Name) else ())]
        inside = (one for value in named for one in ast.walk(value))
        return any(isinstance(one, ast.Attribute) and one.attr in ("summary", "refused") for one in inside)

    def _fault(self, call: ast.Call) -> Fault:
        labels = ("where", "expected", "found", "remedy", "why")
        given = dict(zip(labels, call.args, strict=False)) | {key.arg: key.value for key in call.keywords if key.arg}
        given.pop("where", None)
        return Fault(**{name: tuple(filter(_says, self.texts(node, 2))) for name, node in given.items()})

    def _behind(self, node: ast.Name | ast.Call) -> list[ast.AST]:
        """What a name holds, or a call of the package returns."""
        if isinstance(node, ast.Name):
            return [*self._put_into(node)] or [*self._handed_over(node)]
        is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        found = [
            one
            for one in self.functions.get(_name(node), [])
            if is_method or not isinstance(self.parent[one], ast.ClassDef)
        ]
        here = [one for one in found if self.file[one] == self.file[node]]
        functions = here if len(here) == 1 else found if len(found) == 1 else []
        returned = [one for function in functions for one in ast.walk(function)]
        return [one.value for one in returned if isinstance(one, (ast.Return, ast.Yield)) and one.value is not None]

    def _put_into(self, name: ast.Name) -> Iterator[ast.AST]:
        """What was put into a name before it is read: the last assignment, those in branches, what was appended."""
        child: ast.AST = name
        while not isinstance(child, (ast.FunctionDef, ast.Module)):
            parent = self.parent[child]
            for block in (getattr(parent, label, []) for label in ("body", "orelse", "finalbody")):
                before = block[: block.index(child)] if isinstance(block, list) and child in block else []
                for statement in reversed(before):
                    yield from _assigned(statement, name.id)
                    if _targets(statement, name.id):
                        return
            child = parent

    def _handed_over(self, name: ast.Name) -> Iterator[ast.AST]:
        """What callers in the same file hand over where a name is an argument."""
        function: ast.AST = name
        while not isinstance(function, (ast.FunctionDef, ast.Module)):
            function = self.parent[function]
        if isinstance(function, ast.Module):
            return
        arguments = (*function.args.posonlyargs, *function.args.args)
        names = [one.arg for one in arguments if one.arg not in ("self", "cls")]
        for call in self.calls.get(function.name, []) if name.id in names else []:
            if self.file[call] == self.file[name]:
                yield from call.args[names.index(name.id) :][:1]
                yield from (key.value for key in call.keywords if key.arg == name.id)

    def _filled(self, path: Path) -> Iterator[ast.AST]:
        """What is put into any `.faults` in a file."""
        for call in (*self.calls["append"], *self.calls["extend"]):
            if self.file[call] == path and getattr(call.func.value, "attr", "") == "faults":  # type: ignore[attr-defined]
                yield from call.args


def _name(call: ast.Call) -> str:
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


def _targets(statement: ast.AST, name: str) -> list[ast.expr]:
    """What a statement itself puts into a name."""
    if isinstance(statement, ast.Assign):
        return [value for target in statement.targets for value in _paired(target, statement.value, name)]
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return _paired(statement.target, statement.value, name)
    return []


def _paired(target: ast.expr, value: ast.expr, name: str) -> list[ast.expr]:
    if isinstance(target, ast.Tuple):
        values = value.elts if isinstance(value, ast.Tuple) else []
        return [one for pair in zip(target.elts, values, strict=False) for one in _paired(*pair, name)]
    return [value] if isinstance(target, ast.Name) and target.id == name else []


def _assigned(statement: ast.AST, name: str) -> Iterator[ast.AST]:
    """What a statement, or one inside it, puts into a name or adds to it."""
    for node in ast.walk(statement):
        yield from _targets(node, name)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            yield node.value
        if isinstance(node, ast.Call) and _name(node) in ("append", "extend"):
            filled = getattr(node.func, "value", None)
            yield from node.args if isinstance(filled, ast.Name) and filled.id == name else []


def _joined(parts: Iterable[list[str]]) -> list[str]:
    """Every way to put parts in a row that may each be several texts."""
    made = [""]
    for part in parts:
        made = [start + end for start in made for end in dict.fromkeys(part)]
    return [re.sub(f"{OPEN}+", OPEN, text) for text in made]


def _says(text: str) -> bool:
    """Whether a template has anything of its own."""
    return bool(re.search(r"\w", text))
