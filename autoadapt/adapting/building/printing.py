"""Printing: torch.fx graphs as Python code that a person would write.

torch.fx itself prints one statement for every node. Here look-ups and arithmetic are written where they are used,
method calls are chained, and the values of a chain of layers share one name.
"""

from __future__ import annotations

import builtins
import keyword
import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from autoadapt.adapting import layers, mask_layers, token_layers
from autoadapt.adapting.building.expressions import (
    INDENT,
    WIDTH,
    Bracketed,
    Expression,
    Text,
    constant,
    flat,
    group,
    lines_of,
    quoted,
)
from autoadapt.adapting.building.statements import Statement, merged, return_lines, statement_lines
from autoadapt.contracts import leaves

_DEEPEST = 2  # calls within calls that a reader still follows


@dataclass(frozen=True)
class Printed:
    """The code of a forward pass, and the objects that it refers to."""

    arguments: tuple[tuple[str, str | None], ...]
    """Names, each with its default as text, or None."""
    statements: tuple[Statement, ...]
    returned: Expression
    objects: Mapping[str, Any] = field(default_factory=dict)
    """Functions and classes in the code that are not torch's, by name."""

    def function(self) -> str:
        """The code of the whole function."""
        arguments = ["self", *(name if default is None else f"{name}={default}" for name, default in self.arguments)]
        return "\n".join([f"def forward({', '.join(arguments)}):", *self.body()])

    def body(self, *, indent: int = INDENT, result_type: str = "", keywords: str = "") -> list[str]:
        """The lines of the body.

        Args:
            indent: Columns before each line.
            result_type: Annotation of the variable that is returned.
            keywords: Name of a dict for the keyword arguments of the returned call, for type checkers: its class may
                declare narrower types for them.
        """
        room, lines, returned = WIDTH - indent, list[str](), self.returned
        for statement in self.statements:
            lines += statement_lines(statement, room, result_type)
        if keywords and isinstance(returned, Bracketed) and returned.head:
            items = [(f"{quoted(name.removesuffix('='))}: ", item) for name, item in returned.items]
            lines += lines_of(f"{keywords}: dict[str, Any] = ", group("{", items, "}"), "", room)
            returned = Text(f"{returned.head}(**{keywords})")
        lines += return_lines(returned, room)
        return [" " * indent + line for line in lines]


def print_graph(graph: fx.Graph, *, calls: Mapping[str, str] | None = None) -> Printed:
    """The code of a graph's forward pass.

    Args:
        graph: Nodes may carry the name of a variable as `meta["name"]`; several nodes may have the same.
        calls: The code that calls a module, by its path, where that is not `self.<path>`.

    Example:
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> more = graph.call_function(operator.add, (x, 31))
        >>> _ = graph.output([graph.call_function(operator.floordiv, (more, 32))])
        >>> print(print_graph(graph).function())
        def forward(self, x):
            return [(x + 31) // 32]
    """
    return _Printer(graph, calls or {}).printed()


_ARITHMETIC: dict[Any, tuple[str, int]] = {
    operator.add: ("+", 1),
    operator.sub: ("-", 1),
    operator.mul: ("*", 2),
    operator.floordiv: ("//", 2),
}


class _Printer:
    """Turns nodes into statements, in their order; a value that is used once may be written where it is used."""

    def __init__(self, graph: fx.Graph, calls: Mapping[str, str]) -> None:
        self._graph = graph
        self._calls = calls
        self._uses = Counter(used for node in graph.nodes for used in _used(node))
        self._objects: dict[str, Any] = {}
        self._known: dict[fx.Node, Expression] = {}
        """Expressions that may be repeated wherever a value is used: a variable, a look-up, arithmetic."""
        self._waiting: dict[fx.Node, Expression] = {}
        """Expressions of values that are used once and have no variable yet."""
        self._done: set[fx.Node] = set()
        """Nodes that are written."""
        self._holders: dict[str, fx.Node] = {}
        """The node whose value a variable has at present."""
        self._statements: list[Statement] = []

    def printed(self) -> Printed:
        """The code of the whole graph; to be called once."""
        self._collect_objects()
        arguments: list[tuple[str, str | None]] = []
        returned: Expression = Text("None")
        for node in self._graph.nodes:
            match node.op:
                case "placeholder":
                    default = flat(self._value(node.args[0])) if node.args else None
                    arguments.append((str(node.target), default))
                    self._holders[name := _argument(node)] = node
                    self._known[node] = Text(name)
                case "output":
                    returned = self._returned(node.args[0])
                case _ if _is_light(node):
                    self._name_waiting(node)
                    self._known[node] = self._expression(node)
                case _:
                    self._write(node)
        return Printed(tuple(arguments), tuple(merged(self._statements)), returned, self._objects)

    def _collect_objects(self) -> None:
        """Note the names of all functions and classes, before any variable takes one of them."""
        for node in self._graph.nodes:
            if node.op == "call_function" and not _is_light(node) and node.target is not operator.getitem:
                self._callable(node.target)

    def _callable(self, target: Any) -> str:
        """The code that refers to a function or class."""
        name = str(getattr(target, "__name__", target))
        for module, prefix in ((F, "F"), (torch, "torch"), (builtins, "")):
            if getattr(module, name, None) is target:
                return f"{prefix}.{name}" if prefix else name
        head, _, rest = str(getattr(target, "__qualname__", name)).partition(".")
        arguments = {_argument(node) for node in self._graph.nodes if node.op == "placeholder"}
        while head in arguments or self._objects.get(head, target) is not target:
            head += "_"
        self._objects[head] = target
        return f"{head}.{rest}" if rest else head

    def _write(self, node: fx.Node) -> None:
        """Make a statement of a node, or let its expression wait for its only use."""
        if _has_effect(node):
            for waiting, expression in list(self._waiting.items()):
                self._assign(waiting, expression)
        elif not self._fits(node):
            self._name_waiting(node)
        expression = self._expression(node)
        if self._uses[node] == 1 and _may_wait(node):
            self._waiting[node] = expression
        elif node.users:
            self._assign(node, expression)
        else:
            self._finish(node)
            self._statements.append(Statement((), (expression,)))

    def _fits(self, node: fx.Node) -> bool:
        """Whether waiting expressions that a node uses may be written inside its own statement."""
        expression = self._expression(node)
        name = str(node.meta.get("name", node.name))
        room = WIDTH - 2 * INDENT
        return expression.depth <= _DEEPEST and len(f"{name} = {flat(expression)}") <= room

    def _name_waiting(self, node: fx.Node) -> None:
        """Assign variables to the waiting expressions that a node uses."""
        for used in dict.fromkeys(_used(node)):
            if used in self._waiting:
                self._assign(used, self._waiting[used])

    def _assign(self, node: fx.Node, expression: Expression) -> None:
        self._waiting.pop(node, None)
        self._finish(node)
        name = self._hold(node, str(node.meta.get("name", node.name)))
        comment = str(node.meta.get("comment", ""))
        self._statements.append(Statement((name,), (expression,), comment, "shape" in node.meta))

    def _finish(self, node: fx.Node) -> None:
        """Note that a node is written, with all waiting expressions inside it."""
        self._done.add(node)
        for used in _used(node):
            if used in self._waiting:
                del self._waiting[used]
                self._finish(used)

    def _hold(self, node: fx.Node, wanted: str) -> str:
        """A variable for a value: the wanted name, or that with a number if its present value is still needed."""
        name, count = wanted, 1
        if keyword.iskeyword(name) or name in self._objects or name in _RESERVED:
            name = wanted = f"{wanted}_"
        while self._is_taken(name):
            count += 1
            name = f"{wanted}_{count}"
        self._holders[name] = node
        self._known[node] = Text(name)
        return name

    def _is_taken(self, name: str) -> bool:
        return name in self._objects or (name in self._holders and self._is_needed(self._holders[name]))

    def _is_needed(self, node: fx.Node) -> bool:
        """Whether a node that is not written yet reads a value."""
        for user in node.users:
            if user in self._done:
                continue
            if user in self._known and user not in self._waiting and not self._is_needed(user):
                continue
            return True
        return False

    def _returned(self, value: Any) -> Expression:
        """The returned expression; a single tensor is assigned to a variable first."""
        if isinstance(value, fx.Node) and value not in self._waiting:
            known = self._known[value]
            if not (isinstance(known, Text) and known.text.isidentifier()):
                self._assign(value, known)
            name = flat(self._known[value])
            first = next((i for i, one in enumerate(self._statements) if one.targets == (name,)), None)
            if first is not None:
                self._statements[first] = replace(self._statements[first], is_result=True)
        return self._value(value)

    def _expression(self, node: fx.Node) -> Expression:
        """The expression of one node: a call, a look-up or arithmetic."""
        args, kwargs = node.args, node.kwargs
        match node.op:
            case "call_module":
                return self._call(self._module(str(node.target)), args, kwargs)
            case "call_method":
                return self._call(f"{self._operand(args[0])}.{node.target}", args[1:], kwargs)
            case "get_attr":
                return Text(_module_path(str(node.target)))
        if node.target in _ARITHMETIC:
            return self._arithmetic(node)
        if node.target is getattr and str(args[1]).isidentifier():
            return Text(f"{self._operand(args[0])}.{args[1]}")
        if node.target is operator.getitem:
            depth = self._value(args[0]).depth
            return Text(f"{self._operand(args[0])}[{self._index(args[1])}]", depth=depth)
        return self._call(self._callable(node.target), args, kwargs)

    def _module(self, path: str) -> str:
        return self._calls.get(path) or _module_path(path)

    def _call(self, head: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Expression:
        items = [("", self._value(value)) for value in args]
        items += [(f"{name}=", self._value(value)) for name, value in kwargs.items()]
        depth = max((item.depth for _, item in items), default=0)
        return Bracketed(head, "(", tuple(items), ")", max(depth + 1, head.count("(")))

    def _operand(self, value: Any) -> str:
        """The code of a value before a dot or an index, in brackets if needed."""
        expression = self._value(value)
        return flat(expression) if expression.level == 9 else f"({flat(expression)})"

    def _arithmetic(self, node: fx.Node) -> Expression:
        sign, level = _ARITHMETIC[node.target]
        left, right = (self._value(value) for value in node.args)
        before = flat(left) if left.level >= level else f"({flat(left)})"
        after = flat(right) if right.level > level else f"({flat(right)})"
        return Text(f"{before} {sign} {after}", level)

    def _index(self, index: Any) -> str:
        parts = index if isinstance(index, tuple) else (index,)
        texts = [self._slice(part) if isinstance(part, slice) else flat(self._value(part)) for part in parts]
        return ", ".join(texts) + ("," if isinstance(index, tuple) and len(texts) == 1 else "")

    def _slice(self, part: slice) -> str:
        start, stop = ("" if bound is None else flat(self._value(bound)) for bound in (part.start, part.stop))
        return f"{start}:{stop}" + ("" if part.step is None else f":{flat(self._value(part.step))}")

    def _value(self, value: Any) -> Expression:
        """The expression of an argument: a node, a constant, or containers of them."""
        match value:
            case fx.Node():
                return self._known.get(value) or self._waiting[value]
            case dict():
                items = [(f"{flat(self._value(key))}: ", self._value(item)) for key, item in value.items()]
                return group("{", items, "}")
            case list():
                return group("[", [("", self._value(item)) for item in value], "]")
            case tuple():
                return group("(", [("", self._value(item)) for item in value], ")")
            case slice():
                bounds = (value.start, value.stop, value.step)
                return group("slice(", [("", self._value(bound)) for bound in bounds], ")")
            case _:
                return constant(value)


_IN_FILES = {"Adapted", "Any", "Conv", "OrderedDict", "TAPS", "UNUSED", "partial"}  # see `standalone`
_OURS = {*leaves.__all__, *layers.__all__, *mask_layers.__all__, *token_layers.__all__}
_RESERVED = {"self", "F", "nn", "torch", *_IN_FILES, *dir(builtins), *_OURS}


def _argument(node: fx.Node) -> str:
    """The variable of an argument: `kwargs` for `**kwargs`."""
    return str(node.target).lstrip("*")


def _is_light(node: fx.Node) -> bool:
    """Whether a node is a look-up or arithmetic, so that its expression may be repeated wherever it is used."""
    if node.op != "call_function" or "name" in node.meta:
        return node.op == "get_attr"
    if node.target is operator.getitem:
        return isinstance(node.args[1], (int, str))
    return node.target in _ARITHMETIC or node.target is getattr


def _may_wait(node: fx.Node) -> bool:
    """Whether an expression may be written inside the statement that uses it: steps of a chain, and containers."""
    if "shape" in node.meta or node.target == "backbone" or _has_effect(node):
        return False
    return "name" not in node.meta or any("name" in user.meta for user in node.users)


def _has_effect(node: fx.Node) -> bool:
    """Whether a node changes its arguments, so that no expression may be moved past it."""
    return not node.users or (node.op == "call_method" and str(node.target).endswith("_"))


def _used(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that a node reads, each as often as it reads it."""
    yield from _nodes((node.args, dict(node.kwargs)))


def _nodes(value: Any) -> Iterator[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(value, found.append)
    yield from found


def _module_path(path: str) -> str:
    """The code that gets a module by its path."""
    first, *rest = path.split(".")
    if first == "adapters" and len(rest) == 1:
        return f"self.adapters[{quoted(rest[0])}]"
    if first == "adapters":
        return f"self.adapters.get_submodule({quoted('.'.join(rest))})"
    if all(part.isidentifier() for part in (first, *rest)):
        return f"self.{path}"
    return f"self.get_submodule({quoted(path)})"
