"""Graphs: the forward pass of a plan as a torch.fx graph."""

from __future__ import annotations

import keyword
import operator
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from autoadapt.adapting import layers
from autoadapt.adapting.building.forward_arguments import (
    accepted,
    arguments_of,
    check_names,
    container_annotation,
    default_of,
    further_of,
    handed_on,
    is_allowed,
    may_be_absent,
    plain_entries,
    shared_entries,
    spared_by,
    where_axis,
    without_entries,
)
from autoadapt.adapting.coarse_steps import coarse_step
from autoadapt.adapting.operations import Project
from autoadapt.adapting.planning import Plan, Route
from autoadapt.contracts import leaves
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import TensorSpec
from autoadapt.contracts.trees import (
    NAMED,
    Constant,
    Container,
    LeftOut,
    Opaque,
    Path,
    Slot,
    Tree,
    container_type,
    path_text,
    paths,
)
from autoadapt.errors import BuildError, Mismatch


def graph_of(plan: Plan) -> fx.Graph:
    """The forward pass of a plan, with the backbone at `backbone` and layers at `adapters.<name>.<step>`."""
    return _Emitter(plan).written()


def adapter_names(plan: Plan) -> dict[str, Route]:
    """The routes of a plan by the names of their adapters, which are unique and allowed in a ModuleDict."""
    names: dict[str, Route] = {}
    taken = nn.ModuleDict()
    for route in plan.routes:
        name = _as_identifier(route.target)
        while name in names or hasattr(taken, name) or keyword.iskeyword(name):
            name += "_"
        names[name] = route
    return names


def learned_steps(route: Route) -> list[tuple[str, Project, TensorSpec]]:
    """The learned steps of a route: the name of the layer, the operation, and the spec of its input."""
    found = [(step, spec) for step, spec in zip(route.steps, route.specs, strict=False) if isinstance(step, Project)]
    return [("project" if i == 0 else f"project_{i + 1}", step, spec) for i, (step, spec) in enumerate(found)]


class _Emitter:
    """Writes the graph of a plan.

    The nodes of one route carry the name that a person would give their values, as `meta["name"]`; see `printing`.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.graph = fx.Graph()
        self._names = _variable_names(plan)
        self._name = self.module = ""
        self._head: fx.Node | None = None
        self._sizes: dict[str, fx.Node] = {}
        self.given: dict[str, fx.Node] = {}
        self.features: dict[str, fx.Node] = {}
        self._shared: dict[object, fx.Node] = {}
        self._plain = plain_entries(plan.target)
        self._arguments: dict[str, fx.Node] = {}

    def written(self) -> fx.Graph:
        """The whole graph; to be called once."""
        placeholders = self._arguments = self._placeholders()
        self._head = next(iter(reversed(self.graph.nodes)), None)
        self.features = self._call_backbone(self._hand_on(placeholders))
        named = adapter_names(self._plan)
        made = {route.target: self._route(name, route) for name, route in named.items() if not route.same_as}
        nodes = [made[route.same_as or route.target] for route in self._plan.routes]
        self.graph.output(self._returned(nodes, placeholders))
        self._forget_unused()
        self.graph.lint()
        return self.graph

    def put(self, op: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node whose value has the name of the present route."""
        node = self.graph.create_node(op, target, args, kwargs, name=self._name)
        node.meta["name"] = self._name
        return node

    def _placeholders(self) -> dict[str, fx.Node]:
        """One argument for each of the old module's; those that are no tensors or may be absent have defaults."""
        found: dict[str, fx.Node] = {}
        optional, plan = False, self._plan
        for name, tree in arguments_of(plan.target):
            check_names([name])
            is_spare = name in plan.target.replaced_when_empty or may_be_absent(plan, name, tree)
            is_plain = name in plan.target.plain_arguments
            optional = optional or is_plain or is_spare
            default = (default_of(plan.target, name) if is_plain else None,) if optional else ()
            annotation = None if optional else container_annotation(tree)
            node = self.graph.create_node("placeholder", name, args=default, name=name, type_expr=annotation)
            found[name] = node
            self._take_apart(tree, node, (name,), self.given)
        if further := further_of(plan.target):
            node = self.graph.placeholder(f"**{further[0]}")
            self.graph.call_function(layers.nothing_further, (node, further[1]))
        return found

    def _hand_on(self, placeholders: Mapping[str, fx.Node]) -> dict[str, Any]:
        """The arguments that are no tensors and go to the backbone; of others, calls check that they are unchanged."""
        target = self._plan.target
        passed = handed_on(self._plan.source, target)
        found: dict[str, Any] = {}
        for name in target.plain_arguments:
            example, *alike = accepted(target, name)
            arguments = (name, placeholders[name], example, *alike)
            spares = any(one.spares for one in target.parameters if one.name == name)
            self._name = name
            if name in passed and not spares:
                found[name] = self.given[name] = self.put("call_function", layers.hand_on, *arguments)
            elif name not in target.filled:
                self.graph.call_function(layers.unchanged, arguments)
            if name in passed:
                found.setdefault(name, example)  # what False would leave out is not read anyway
        return found

    def _forget_unused(self) -> None:
        """Remove look-ups in containers that nothing reads."""
        for node in reversed(self.graph.nodes):
            if node.target in (operator.getitem, getattr) and not node.users:
                self.graph.erase_node(node)

    def _take_apart(self, tree: Tree, node: fx.Node, path: Path, found: dict[str, fx.Node]) -> None:
        """Write look-ups of every tensor in a container.

        Args:
            tree: The container.
            node: Its value.
            path: Its path.
            found: Gets the node of each tensor, by path.
        """
        match tree:
            case Slot():
                found[path_text(path)] = node
            case Container(kind=kind, keys=keys, children=children):
                for key, child in zip(keys, children, strict=True):
                    if paths(child):
                        by_name = kind in NAMED
                        take = getattr if by_name else operator.getitem
                        name = f"{node.name}_{key}" if isinstance(key, int) else key
                        taken = self.graph.create_node("call_function", take, (node, key), name=name)
                        self._take_apart(child, taken, (*path, key), found)
            case Constant() | Opaque() | LeftOut():
                return

    def _call_backbone(self, plain: Mapping[str, Any]) -> dict[str, fx.Node]:
        """Call the backbone with the inputs of the plan's input routes; returns the node of each of its outputs.

        Args:
            plain: Arguments that are no tensors, by name.
        """
        source = self._plan.source
        routed = {}
        for route in self._plan.inputs:
            node, spec = self.given[route.target], self._plan.target.inputs[route.target]
            self._name = node.name
            for step in route.steps:
                spec, node = step.gives(spec), step.node(node, spec, self)
            routed[route.source] = node
        nodes = iter([routed[path] for path in source.inputs.paths])
        arguments = {name: self._argument(tree, nodes) for name, tree in source.arguments.items()} | dict(plain)
        values = list(arguments.values())[: source.positional]
        keywords = dict(list(arguments.items())[source.positional :])
        check_names(keywords)
        self._name = "features"
        features = self.put("call_module", "backbone", *values, **keywords)
        if self._plan.taps:
            features.meta["comment"] = ", ".join(self._plan.taps)
            names = enumerate(self._plan.taps)
            return {name: self.graph.call_function(operator.getitem, (features, i)) for i, name in names}
        found: dict[str, fx.Node] = {}
        self._take_apart(source.outputs.tree, features, (), found)
        return found

    def _route(self, name: str, route: Route) -> fx.Node:
        """Write the steps of a route, whose layers are at `adapters.<name>`; returns the node of its output."""
        is_input = route.source.startswith("inputs.")
        node = self.given[route.source.removeprefix("inputs.")] if is_input else self.features[route.source]
        learned = learned_steps(route)
        modules = {id(step): f"adapters.{name}" + f".{called}" * (len(learned) > 1) for called, step, _ in learned}
        for step, spec in zip(route.steps, route.specs, strict=False):
            is_whole = route.target == "output" and step is not route.steps[-1]
            self._name = "values" if is_whole else self._names[route.target]
            self.module = modules.get(id(step), "")
            node = step.node(node, spec, self)
        return self.put("call_method", "contiguous", node) if route.made_contiguous else node

    def sizes(self, dims: Sequence[Dim]) -> list[Any]:
        """Sizes as numbers, or as nodes that compute them from the sizes of the inputs."""
        return [self._size(dim) for dim in dims]

    def call(self, name: str, function: Callable[..., Any], *args: Any) -> fx.Node:
        """A function call whose value has a name of its own."""
        return self.graph.create_node("call_function", function, args, name=name)

    def once(self, key: object, make: Callable[[], fx.Node]) -> fx.Node:
        """The node that was made for a key; made by the first call with that key."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def _size(self, dim: Dim) -> Any:
        """A size as a number, or as a node that computes it from the sizes of the inputs."""
        if dim.constant is not None:
            return dim.constant
        if stepped := coarse_step(dim):
            axis, step = stepped
            return self.graph.call_function(layers.least_multiple, (self.axis(axis), step))
        known = {axis: fx.Proxy(self.axis(axis)) for axis in sorted(dim.axes)}
        value = dim.evaluate(known)
        for node in self.graph.find_nodes(op="call_function", target=torch.sym_max):
            node.target = layers.larger  # sym_max can neither be traced nor scripted
        return value.node if isinstance(value, fx.Proxy) else value

    def axis(self, name: str) -> fx.Node:
        """The node of an input axis's size, which is read at the beginning of the graph."""
        if name not in self._sizes:
            path, position = where_axis(name, self._plan.target)
            called = {"B": "batch", "H": "height", "W": "width"}.get(name, f"size_{name}")
            with self.graph.inserting_after(self._head):
                shape = self.graph.call_function(getattr, (self.given[path], "shape"))
            with self.graph.inserting_after(shape):
                self._head = self.call(called, operator.getitem, shape, position)
            self._head.meta |= {"name": called, "shape": True}
            self._sizes[name] = self._head
        return self._sizes[name]

    def _argument(self, tree: Tree, nodes: Any) -> Any:
        """An argument of the backbone; entries of a dict that are no tensors are read from the caller's, if in it."""
        made = self._container(tree, nodes)
        for key, (name, _) in (shared_entries(tree, self._plain) if isinstance(made, dict) else {}).items():
            given = self._arguments[name], key, made[key]
            made[key] = self.graph.create_node("call_method", "get", given, name=str(key))
        return made

    def _returned(self, nodes: Sequence[fx.Node], placeholders: Mapping[str, fx.Node]) -> Any:
        """The old module's container with the adapted outputs; a dict argument that it wrote them to is updated."""
        target = self._plan.target
        filled = [name for name, path in target.filled.items() if path == ""]
        value = self._container(without_entries(target.outputs.tree, self._plain if filled else {}), iter(nodes))
        if not filled:
            return value
        argument = placeholders[filled[0]]
        if filled[0] in target.replaced_when_empty:
            return self.graph.call_function(layers.fill_in, (argument, value))
        self.graph.call_method("update", (argument, value))
        return argument

    def _container(self, tree: Tree, nodes: Any) -> Any:
        """A container with the next nodes in its slots.

        Raises:
            BuildError: It has an object that cannot be made.
        """
        match tree:
            case Slot():
                return next(nodes)
            case Constant(value=value):
                return value
            case LeftOut(name=name) if asked := spared_by(self._plan.target, name):
                self._name = "left_out"
                return self.put("call_function", leaves.unless_off, name, self._arguments[asked])
            case LeftOut(name=name):
                return self.graph.call_function(leaves.LeftOut, (name,))
            case Opaque(type=name):
                fault = Mismatch(name, "tensors in containers", "an object", "wrap the module")
                raise BuildError(f"a {name} cannot be made anew", [fault])
            case Container(keys=keys):
                children = [self._container(child, nodes) for child in tree.children]
                return self._literal(tree, keys, children)

    def _literal(self, tree: Container, keys: Sequence[Any], children: list[Any]) -> Any:
        """A container as a Python literal where torch.fx takes that, else as a call of its class."""
        constructor, form = container_type(tree)
        match tree.kind:
            case "tuple":
                return tuple(children)
            case "list":
                return children
            case "dict":
                return dict(zip(keys, children, strict=True))
            case "ordered_dict":
                return self.graph.call_function(OrderedDict, (list(zip(keys, children, strict=True)),))
            case _ if form == "sequence":
                return self.graph.call_function(constructor, (children,))
            case _ if form == "positional":
                return self.graph.call_function(constructor, tuple(children))
            case _ if form == "keywords":
                check_names(keys)
                return self.graph.call_function(constructor, (), dict(zip(map(str, keys), children, strict=True)))
            case _:
                return self.graph.call_function(constructor, (dict(zip(keys, children, strict=True)),))


def _variable_names(plan: Plan) -> dict[str, str]:
    """The variable name of each output, by path: its own name, or its number, such as `level_0` or `output_1`.

    Outputs that would have the same name get their whole path instead.
    """
    specs = dict(plan.target.outputs.items())
    levels = all(spec.is_floating and len(spec.dims) > 3 for spec in specs.values())
    names = {path: _short_name(path, "level" if levels else "output") for path in specs}
    counts = Counter(names.values())
    return {path: name if counts[name] == 1 else f"output_{_as_identifier(path)}" for path, name in names.items()}


def _short_name(path: str, kind: str) -> str:
    parts = path.split(".")
    texts = [i for i, part in enumerate(parts) if not part.isdigit()]
    name = _as_identifier("_".join(parts[texts[-1] :] if texts else [kind, *parts]))
    return name if is_allowed(name) else f"{kind}_{name}"


def _as_identifier(text: str) -> str:
    """A text with underscores in place of characters that no identifier may have."""
    return "".join(char if char.isalnum() or char == "_" else "_" for char in text) or "_"
