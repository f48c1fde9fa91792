"""Python configs: files of assignments, read from their syntax tree. Nothing in them is imported or run.

What is read: assignments of literals, of `dict(...)`, of their arithmetic, slices and comprehensions, and of names
assigned before; entries that are assigned (`model["head"]["num_classes"] = 10`); `update` and mmengine's `merge`,
with what they do to its mappings; `_base_` files, merged as mmengine does (`_delete_=True` replaces), and their
values (`_base_.name`, `{{_base_.name}}`); and mmengine's lazy form, where `with read_base():` takes names from files
beside, and a class that is imported stands for its name. As in Python a name is no copy: who changes an entry changes
it wherever it is used. Everything else is a fault with its line.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from autoadapt.assembly.plain_data import Shared, changed, clashes, holds, merged, own, shared, size
from autoadapt.assembly.python_expressions import Keys, NotDataError, computed
from autoadapt.errors import AssemblyError, Mismatch, nearest
from autoadapt.files.reading import read_text

Lines: TypeAlias = dict[Keys, "int | str"]
"""The line of each entry, with the file where it is a base of the one that was asked for."""

_MOST_NODES = 100_000
_MOST_BYTES = 1 << 20
_BASES = "_base_"
_PLAIN = "a literal, dict(...) of literals, or a name assigned before"


@dataclass
class _Values:
    """The names of one file, and what was wrong with it."""

    data: dict[str, Any] = field(default_factory=Shared)
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
    return own(values.data), values.lines


@dataclass
class _Budget:
    """How many entries a config may still have, with those of its bases and those that a name repeats."""

    left: int = _MOST_NODES

    def spend(self, count: int, where: str) -> None:
        """Take entries off the budget."""
        self.left -= count
        self._refuse(self.left < 0, where)

    def hold(self, value: Any, where: str) -> int:
        """The entries of a value, which must be few enough."""
        count = size(value, _MOST_NODES)
        self._refuse(count > _MOST_NODES, where)
        return count

    def _refuse(self, more: bool, where: str) -> None:
        if more:
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
        mine = self._values
        self._budget.hold([mine.data, self._bases.data], self._path.name)
        lines = self._bases.lines | mine.lines
        for keys in clashes(self._bases.data, mine.data):
            line = next(mine.lines[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in mine.lines)
            found = f"a mapping for `{'.'.join(map(str, keys))}`, which is none in the base"
            self._fault(line, "a mapping with `_delete_=True`, or a value", found, "dict(_delete_=True, ...)")
        return _Values(merged(self._bases.data, mine.data), lines, self._bases.classes | mine.classes)

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
            case ast.Assign(targets=[ast.Subscript() | ast.Attribute() as place], value=value):
                self._assign_entry(place, value)
            case ast.Expr(value=ast.Call(func=ast.Attribute(attr="update" | "merge" as kind, value=place)) as call):
                self._update(place, kind, call)
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

    def _assign_entry(self, place: ast.Subscript | ast.Attribute, node: ast.expr) -> None:
        """`model["head"]["num_classes"] = 10`, and the same by attributes, as mmengine's mappings have them."""
        holder, keys = self._found(place.value)
        key = _key(place)
        names = isinstance(holder, Shared if isinstance(place, ast.Attribute) else dict) and isinstance(key, str)
        within = isinstance(holder, list) and isinstance(key, int) and -len(holder) <= key < len(holder)
        if key is None or not (names or within):
            self._refuse(place)
            return
        value = self._value(node, (*keys, key))
        if holds(value, holder):
            self._fault(node.lineno, "a value that does not hold itself", f"`{ast.unparse(node)}`", "write it out")
            return
        self._values.lines |= {(*keys, key): node.lineno}
        holder[key] = shared(value) if isinstance(holder, Shared) else value

    def _update(self, place: ast.expr, kind: str, call: ast.Call) -> None:
        """`model.update(dict(head=dict(num_classes=10)))`, as a child of the lazy form changes its base."""
        holder, keys = self._found(place)
        merging = kind == "merge" and isinstance(holder, Shared) and not call.keywords
        if len(call.args) > 1 or not (merging or (kind == "update" and isinstance(holder, dict))):
            self._refuse(call)
            return
        changes: Any = self._value(call.args[0], keys) if call.args else {}
        if not isinstance(changes, dict):
            self._refuse(call)
            return
        changes = changes | self._keywords(call.keywords, keys)
        self._budget.hold([holder, changes], f"{self._path.name} (line {call.lineno})")
        if holds(changes, holder):
            self._fault(call.lineno, "a value that does not hold itself", f"`{ast.unparse(call)}`", "write it out")
            return
        if merging:
            holder |= {key: shared(value) for key, value in merged(holder, changes).items()}
        else:
            changed(holder, changes)

    def _found(self, node: ast.expr) -> tuple[Any, Keys]:
        """What stands at a name, or at entries below it, with the keys to it; nothing where there is no such place."""
        match node:
            case ast.Name(id=name) if name == _BASES:
                return self._bases.data, ()
            case ast.Name(id=name):
                return self._values.data.get(name), (name,)
            case ast.Subscript() | ast.Attribute():
                holder, keys = self._found(node.value)
                key = _key(node)
                named = isinstance(holder, Shared if isinstance(node, ast.Attribute) else dict)
                if named and isinstance(key, str) and key in holder:
                    return holder[key], (*keys, key)
                if isinstance(holder, (list, tuple)) and isinstance(key, int) and -len(holder) <= key < len(holder):
                    return holder[key], (*keys, key % len(holder))
        return None, ()

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
            found = f"{path.name}: {error.mismatches[0].found}"
            self._fault(line, "a base that can be read", found, near[0] if near else "check the path")
            return
        read = _File(path, text, self._faults, self._above, self._budget).read()
        twice = sorted(set(read.data) & set(into.data)) if refuse_twice else []
        if twice:
            self._fault(line, "every name in one base", f"{', '.join(twice)} again in {path.name}", "keep one of them")
        into.data |= {name: shared(value) for name, value in read.data.items()}
        into.classes |= read.classes
        into.lines |= {k: at if isinstance(at, str) else f"{at} of {path.name}" for k, at in read.lines.items()}

    def _value(self, node: ast.expr, keys: Keys) -> Any:
        """A value as it is written; none, and a fault, where it would have to be run."""
        self._values.lines.setdefault(keys, node.lineno)
        match node:
            case ast.Constant(value=str(text)) if "{{" in text:
                filled = self._filled(text)
                return self._refuse(node) if "{{" in filled else filled
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                return value
            case ast.List(elts=children):
                return [self._value(child, (*keys, i)) for i, child in enumerate(children)]
            case ast.Tuple(elts=children):
                return tuple(self._value(child, (*keys, i)) for i, child in enumerate(children))
            case ast.Dict(keys=names, values=children):
                return self._mapping(list(zip(names, children, strict=True)), keys)
            case ast.Call(func=ast.Name(id="dict"), args=args, keywords=named) if "dict" not in self._values.data:
                return self._keywords(named, keys) if not args else self._extended(args, named, keys, node)
            case ast.Name(id=name) if name in self._values.data:
                return self._named(node, keys)
            case ast.Subscript() | ast.Attribute() if self._found(node)[1]:
                return self._named(node, keys)
            case ast.Set(elts=[ast.Set(elts=[ast.Attribute() as inner])]) if _root(inner) == _BASES:
                return self._named(inner, keys) if self._found(inner)[1] else self._refuse(node)
            case ast.Name(id=name) if name in self._values.classes and keys[-1] == "type":
                return self._values.classes[name].rpartition(".")[2]
            case _:
                return self._computed(node, keys)

    def _filled(self, text: str) -> str:
        """A text with what mmengine writes for the parts of the file's own name."""
        path = self._path
        known = {
            "fileDirname": str(path.parent),
            "fileBasename": path.name,
            "fileBasenameNoExtension": path.stem,
            "fileExtname": path.suffix,
        }
        return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: known.get(found[1], found[0]), text)

    def _named(self, node: ast.expr, keys: Keys) -> Any:
        """A value that was given before, itself and no copy, as in Python."""
        value, at = self._found(node)
        where = f"{self._path.name}, {ast.unparse(node)}"
        self._budget.spend(self._budget.hold(value, where), where)
        known = self._bases.lines if _root(node) == _BASES else self._values.lines
        below = {(*keys, *k[len(at) :]): line for k, line in known.items() if k[: len(at)] == at and len(k) > len(at)}
        self._values.lines |= below
        return value

    def _computed(self, node: ast.expr, keys: Keys) -> Any:
        """A value that is put together of data by what an expression means; none, and a fault, where it is more."""

        def part(inner: ast.expr, inner_keys: Keys) -> Any:
            before = len(self._faults)
            self._budget.spend(1, where)
            found = self._value(inner, inner_keys)
            if len(self._faults) > before:
                raise NotDataError
            return found

        where, faults = f"{self._path.name} (line {node.lineno})", len(self._faults)
        try:
            made: Any = computed(node, keys, part, self._values.data, self._budget.left)
        except NotDataError:
            made = None
        if len(self._faults) > faults:
            return None
        if made is None:
            return self._refuse(node)
        self._budget.spend(self._budget.hold(made, where), where)
        return made

    def _extended(self, args: list[ast.expr], named: list[ast.keyword], keys: Keys, node: ast.expr) -> Any:
        """`dict(other, a=1)`."""
        first = self._value(args[0], keys) if len(args) == 1 else None
        return first | self._keywords(named, keys) if isinstance(first, dict) else self._refuse(node)

    def _keywords(self, named: list[ast.keyword], keys: Keys) -> dict[str, Any]:
        pairs = [(ast.Constant(value=each.arg) if each.arg is not None else None, each.value) for each in named]
        return self._mapping(pairs, keys, once=True)

    def _mapping(self, pairs: list[tuple[Any, ast.expr]], keys: Keys, *, once: bool = False) -> dict[str, Any]:
        """A mapping of its entries and of those unpacked into it, which a call may not name again."""
        found: dict[str, Any] = {}
        unpacked: set[str] = set()
        for key, child in pairs:
            if key is None and isinstance(others := self._value(child, keys), dict):
                if once and (twice := sorted(set(others) & set(found))):
                    self._fault(child.lineno, "every key once", f"`{twice[0]}` again", "remove one of them")
                found |= others
                unpacked |= set() if once else set(others)
                continue
            if not (isinstance(key, ast.Constant) and isinstance(key.value, (str, int))):
                self._refuse(key if key is not None else child)
                continue
            name = str(key.value)
            if name in found and name not in unpacked:
                self._fault(child.lineno, "every key once", f"`{name}` again", "remove one of them")
            place: Keys = (*keys, name)
            self._values.lines[place] = child.lineno
            found[name] = self._value(child, place)
        return found

    def _refuse(self, node: ast.AST) -> None:
        text = ast.unparse(node).splitlines()[0]
        shown = text if len(text) < 60 else f"{text[:57]}..."
        self._fault(getattr(node, "lineno", 1), _PLAIN, f"`{shown}`", "write the value out; nothing in a file is run")

    def _fault(self, line: int | str, expected: str, found: str, remedy: str) -> None:
        self._faults.append(Mismatch(f"{self._path.name} (line {line})", expected, found, remedy))


def _key(node: ast.Subscript | ast.Attribute) -> str | int | None:
    """The key of an entry, where it is written out."""
    match node:
        case ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Constant(value=str() | int() as key)) if not isinstance(key, bool):
            return key
        case ast.Subscript(slice=ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as key))):
            return -key
    return None


def _root(node: ast.expr) -> str:
    """The name that a chain of entries begins with."""
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
