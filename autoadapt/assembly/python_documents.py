"""Python configs: files of assignments, read from their syntax tree. Nothing in them is imported or run.

What is read: assignments of literals, of `dict(...)` and of names assigned before; `_base_` files, merged as mmengine
does (`_delete_=True` replaces); and mmengine's lazy form, where `with read_base():` takes names from files beside, and
a class that is imported stands for its name. Everything else is a fault with its line.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from autoadapt.errors import AssemblyError, Mismatch, nearest
from autoadapt.reading import read_text

__all__ = ["Keys", "Lines", "read_python"]

Keys: TypeAlias = tuple[str | int, ...]
"""Where something stands in a config: `("head", "num_classes")`."""

Lines: TypeAlias = dict[Keys, "int | str"]
"""The line of each entry, with the file where it is a base of the one that was asked for."""

_MOST_NODES = 100_000
_MOST_BYTES = 1 << 20
_BASES = "_base_"
_DELETE = "_delete_"
_PLAIN = "a literal, dict(...) of literals, or a name assigned before"


@dataclass
class _Values:
    """The names of one file, and what was wrong with it."""

    data: dict[str, Any] = field(default_factory=dict)
    lines: Lines = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)


def read_python(path: Path, text: str) -> tuple[dict[str, Any], Lines]:
    """The names that a config assigns, and their lines.

    Args:
        path: Of the file; bases are relative to it.
        text: What it holds.

    Raises:
        AssemblyError: With every statement that is more than data, each with its line.
    """
    faults: list[Mismatch] = []
    values = _File(path.resolve(), text, faults, (), _Budget()).read()
    if faults:
        raise AssemblyError(f"{path.name} is more than data", faults)
    return values.data, values.lines


@dataclass
class _Budget:
    """How many entries a config may still have, with those of its bases and those that a name repeats."""

    left: int = _MOST_NODES

    def spend(self, count: int, where: str) -> None:
        self.left -= count
        if self.left < 0:
            fault = Mismatch(where, f"at most {_MOST_NODES:,} entries, bases included", "more", "a simpler config")
            raise AssemblyError("the config is too large", [fault])


class _File:
    """One file in the reading."""

    def __init__(self, path: Path, text: str, faults: list[Mismatch], above: tuple[Path, ...], budget: _Budget) -> None:
        self._path, self._text, self._faults, self._budget = path, text, faults, budget
        self._above = (*above, path)
        self._values = _Values()
        self._bases = _Values()

    def read(self) -> _Values:
        """Every statement in its order, merged into the bases."""
        for statement in self._parsed():
            self._statement(statement)
        own = self._values
        lines = self._bases.lines | own.lines
        return _Values(_merged(self._bases.data, own.data), lines, self._bases.classes | own.classes)

    def _parsed(self) -> list[ast.stmt]:
        try:
            tree = ast.parse(self._text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            said = error.msg if isinstance(error, SyntaxError) else str(error)
            self._fault(getattr(error, "lineno", None) or 1, "Python", said, "model = dict(backbone=dict(...))")
            return []
        self._budget.spend(sum(1 for _ in ast.walk(tree)), f"{self._path.name} (line 1)")
        return tree.body

    def _statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Expr(value=ast.Constant(value=str())):
                pass  # a docstring
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self._assign(name, value, statement.lineno)
            case ast.ImportFrom(
                module="mmengine.config" | "mmengine.config.config", names=[ast.alias(name="read_base")]
            ):
                pass
            case ast.ImportFrom(module=str(module), level=0, names=names) if all(n.name != "*" for n in names):
                self._values.classes |= {n.asname or n.name: f"{module}.{n.name}" for n in names}
            case ast.With(items=[ast.withitem(context_expr=ast.Call(func=ast.Name(id="read_base")))], body=body):
                for inner in body:
                    self._read_base(inner)
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="update" | "merge")) as call):
                self._update(name, call)
            case _:
                self._refuse(statement)

    def _assign(self, name: str, node: ast.expr, line: int) -> None:
        if name == _BASES:
            for each in node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]:
                if isinstance(each, ast.Constant) and isinstance(each.value, str):
                    self._follow(self._path.parent / each.value, line, self._bases, refuse_twice=True)
                else:
                    self._refuse(each)
            return
        self._forget(name)
        self._values.lines[(name,)] = line
        self._values.data[name] = self._value(node, (name,))

    def _forget(self, name: str) -> None:
        for keys in [keys for keys in self._values.lines if keys[0] == name]:
            del self._values.lines[keys]

    def _update(self, name: str, call: ast.Call) -> None:
        """`model.update(dict(head=dict(num_classes=10)))`, as a child of the lazy form changes its base."""
        if len(call.args) > 1 or not isinstance(self._values.data.get(name), dict):
            self._refuse(call)
            return
        changes: Any = self._value(call.args[0], (name,)) if call.args else {}
        changes = (changes if isinstance(changes, dict) else {}) | self._keywords(call.keywords, (name,))
        self._values.data[name] = _merged(self._values.data[name], changes)

    def _read_base(self, statement: ast.stmt) -> None:
        """An import below `with read_base():`, which names files beside this one."""
        if not isinstance(statement, ast.ImportFrom) or not statement.level:
            self._refuse(statement)
            return
        folder = self._path.parents[statement.level - 1]
        found = _Values()
        inner = (statement.module or "").split(".")
        self._follow(folder.joinpath(*inner).with_suffix(".py"), statement.lineno, found)
        for alias in statement.names:
            names = list(found.data) if alias.name == "*" else [alias.name]
            for name in names:
                if name in found.data:
                    new = alias.asname or name
                    self._values.data[new] = found.data[name]
                    self._values.lines |= {(new, *k[1:]): at for k, at in found.lines.items() if k[0] == name}
                elif found.data:
                    near = nearest(name, found.data, count=1)
                    self._fault(statement.lineno, f"one of {', '.join(found.data)}", name, near[0] if near else "")
            if alias.name == "*":
                self._values.classes |= found.classes

    def _follow(self, path: Path, line: int, into: _Values, *, refuse_twice: bool = False) -> None:
        """Read another file, which must not lead back here."""
        if "\0" in str(path):
            self._fault(line, "the name of a file", repr(path.name), "check the path")
            return
        path = path.resolve()
        if path in self._above:
            self._fault(line, "a base that does not lead back", path.name, "remove one of the two")
            return
        if path.suffix != ".py":
            self._fault(line, "a base that is a .py file", path.name, "write it as a .py file")
            return
        try:
            text = read_text(path, "a base that can be read", "check the path", AssemblyError, most=_MOST_BYTES)
        except AssemblyError as error:
            near = nearest(path.name, [other.name for other in path.parent.glob("*.py")], count=1)
            found = error.mismatches[0].found
            self._fault(line, "a base that can be read", found, near[0] if near else "check the path")
            return
        read = _File(path, text, self._faults, self._above, self._budget).read()
        twice = sorted(set(read.data) & set(into.data)) if refuse_twice else []
        if twice:
            self._fault(line, "every name in one base", f"{', '.join(twice)} again in {path.name}", "keep one of them")
        into.data |= read.data
        into.classes |= read.classes
        into.lines |= {k: at if isinstance(at, str) else f"{at} of {path.name}" for k, at in read.lines.items()}

    def _value(self, node: ast.expr, keys: Keys) -> Any:
        """A value as it is written; none, and a fault, where it would have to be run."""
        self._values.lines.setdefault(keys, node.lineno)
        match node:
            case ast.Constant(value=str(text)) if "{{" in text:
                return self._refuse(node)
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.List(elts=children):
                return [self._value(child, (*keys, i)) for i, child in enumerate(children)]
            case ast.Tuple(elts=children):
                return tuple(self._value(child, (*keys, i)) for i, child in enumerate(children))
            case ast.Dict(keys=names, values=children):
                return self._mapping(list(zip(names, children, strict=True)), keys)
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=named) if "dict" not in self._values.data:
                return self._keywords(named, keys)
            case ast.Name(id=name) if name in self._values.data:
                return self._named(name, keys)
            case ast.Name(id=name) if name in self._values.classes and keys[-1] == "type":
                return self._values.classes[name].rpartition(".")[2]
            case _:
                return self._refuse(node)

    def _named(self, name: str, keys: Keys) -> Any:
        self._budget.spend(_entries(self._values.data[name]), f"{self._path.name}, {name}")
        known = self._values.lines
        known |= {(*keys, *k[1:]): line for k, line in list(known.items()) if k[0] == name and len(k) > 1}
        return copy.deepcopy(self._values.data[name])

    def _keywords(self, named: list[ast.keyword], keys: Keys) -> dict[str, Any]:
        pairs = [(ast.Constant(value=each.arg) if each.arg is not None else None, each.value) for each in named]
        return self._mapping(pairs, keys)

    def _mapping(self, pairs: list[tuple[Any, ast.expr]], keys: Keys) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, child in pairs:
            if not (isinstance(key, ast.Constant) and isinstance(key.value, (str, int))):
                self._refuse(key if key is not None else child)
                continue
            name = str(key.value)
            if name in found:
                self._fault(child.lineno, "every key once", f"`{name}` again", "remove one of them")
            place: Keys = (*keys, name)
            self._values.lines[place] = child.lineno
            found[name] = self._value(child, place)
        return found

    def _refuse(self, node: ast.AST) -> None:
        text = ast.unparse(node).splitlines()[0]
        shown = text if len(text) < 60 else f"{text[:57]}..."
        self._fault(getattr(node, "lineno", 1), _PLAIN, f"`{shown}`", "write the value out; nothing in a file is run")

    def _fault(self, line: int, expected: str, found: str, remedy: str) -> None:
        self._faults.append(Mismatch(f"{self._path.name} (line {line})", expected, found, remedy))


def _entries(value: Any) -> int:
    """How many entries plain data has, with those inside them."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return 1 + sum(map(_entries, below))


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merged into those of the base, as mmengine does; what says `_delete_` takes their place."""
    found = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict):
            inherited = {} if value.get(_DELETE) else found.get(key)
            below = inherited if isinstance(inherited, dict) else {}
            value = _merged(below, {name: child for name, child in value.items() if name != _DELETE})
        found[key] = value
    return found
