"""Graphs: a plan written as straight-line code in torch.fx nodes, without tensors."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from autoadapt import layers
from autoadapt.dims import Dim
from autoadapt.errors import BuildError, Mismatch
from autoadapt.operations import (
    Cast,
    Channels,
    DropPrefix,
    Mean,
    Operation,
    Pool,
    Project,
    Rearrange,
    Recover,
    Resize,
    Thin,
    axis_groups,
)
from autoadapt.planning import Plan, Route
from autoadapt.signature import DTYPES, Signature, TensorSpec
from autoadapt.trees import Constant, Container, LeftOut, Opaque, Path, Slot, Tree, container_type, path_text, paths

__all__ = ["adapter_names", "graph_of", "learned_steps"]


def graph_of(plan: Plan) -> fx.Graph:
    """The forward pass of a plan, with the backbone at `backbone` and layers at `adapters.<name>.<step>`."""
    return _Emitter(plan).graph()


def adapter_names(plan: Plan) -> dict[str, Route]:
    """A name for the adapter of each route, allowed for a module and unlike the others."""
    names: dict[str, Route] = {}
    for route in plan.routes:
        name = "".join(char if char.isalnum() or char == "_" else "_" for char in route.target) or "_"
        while name in names or hasattr(nn.Module, name):
            name += "_"
        names[name] = route
    return names


def learned_steps(route: Route) -> list[tuple[str, Project, TensorSpec]]:
    """Name, operation and input of each learned step."""
    found = [(step, spec) for step, spec in zip(route.steps, route.specs, strict=False) if isinstance(step, Project)]
    return [("project" if i == 0 else f"project_{i + 1}", step, spec) for i, (step, spec) in enumerate(found)]


class _Emitter:
    """Writes the graph of a plan; fx nodes only, no tensors."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._graph = fx.Graph()
        self._sizes: dict[str, fx.Node] = {}
        self._given: dict[str, fx.Node] = {}
        self._features: dict[str, fx.Node] = {}
        self._choices: dict[Thin, fx.Node] = {}

    def graph(self) -> fx.Graph:
        placeholders = self._placeholders()
        returned = self._features = self._call_backbone()
        leaves = [self._route(name, route, returned) for name, route in adapter_names(self._plan).items()]
        self._graph.output(self._returned(leaves, placeholders))
        self._forget_unused()
        self._graph.lint()
        return self._graph

    def _placeholders(self) -> dict[str, fx.Node]:
        """One argument for each of the old module's; those that were no tensors or may be absent have defaults."""
        found: dict[str, fx.Node] = {}
        optional = False
        for name, tree in self._plan.target.arguments.items():
            optional = optional or isinstance(tree, Constant) or name in self._plan.target.replaced_when_empty
            default = (tree.value if isinstance(tree, Constant) else None,) if optional else ()
            node = self._graph.create_node("placeholder", name, args=default, name=name)
            found[name] = node
            self._take_apart(tree, node, (name,), self._given)
        return found

    def _forget_unused(self) -> None:
        """Remove what was taken out of a container and is not needed."""
        for node in reversed(self._graph.nodes):
            if node.target in (operator.getitem, getattr) and not node.users:
                self._graph.erase_node(node)

    def _take_apart(self, tree: Tree, node: fx.Node, path: Path, found: dict[str, fx.Node]) -> None:
        """Note the node of every tensor in a tree."""
        match tree:
            case Slot():
                found[path_text(path)] = node
            case Container(kind=kind, keys=keys, children=children):
                for key, child in zip(keys, children, strict=True):
                    if paths(child):
                        by_name = kind in ("named_tuple", "dataclass")
                        take = getattr if by_name else operator.getitem
                        name = f"{node.name}_{key}" if isinstance(key, int) else key
                        taken = self._graph.create_node("call_function", take, (node, key), name=name)
                        self._take_apart(child, taken, (*path, key), found)
            case Constant() | Opaque() | LeftOut():
                return

    def _call_backbone(self) -> dict[str, fx.Node]:
        """Call the backbone with inputs made legal; gives the node of each of its outputs."""
        source = self._plan.source
        routed = {}
        for route in self._plan.inputs:
            node = self._given[route.target]
            spec = self._plan.target.inputs[route.target]
            for step in route.steps:
                node = self._step(step, node, spec, "", "input")
            routed[route.source] = node
        leaves = iter([routed[path] for path in source.inputs.paths])
        arguments = {name: self._container(tree, leaves) for name, tree in source.arguments.items()}
        values = list(arguments.values())[: source.positional]
        keywords = dict(list(arguments.items())[source.positional :])
        features = self._graph.create_node("call_module", "backbone", tuple(values), keywords, name="features")
        if self._plan.taps:
            names = enumerate(self._plan.taps)
            return {name: self._graph.call_function(operator.getitem, (features, i)) for i, name in names}
        found: dict[str, fx.Node] = {}
        self._take_apart(source.outputs.tree, features, (), found)
        return found

    def _route(self, name: str, route: Route, returned: Mapping[str, fx.Node]) -> fx.Node:
        is_input = route.source.startswith("inputs.")
        node = self._given[route.source.removeprefix("inputs.")] if is_input else returned[route.source]
        learned = {id(step): called for called, step, _ in learned_steps(route)}
        for step, spec in zip(route.steps, route.specs, strict=False):
            called = learned.get(id(step), "")
            node = self._step(step, node, spec, f"adapters.{name}.{called}" if called else "", f"to_{name}")
        return node

    def _step(self, step: Operation, node: fx.Node, spec: TensorSpec, module: str, name: str) -> fx.Node:
        graph = self._graph
        rank = len(spec.dims)
        match step:
            case DropPrefix(axis=axis, count=count):
                index = (*(slice(None),) * axis, slice(count, None))
                return graph.call_function(operator.getitem, (node, index))
            case Rearrange():
                return self._rearrange(step, node)
            case Mean(axes=axes):
                return graph.call_method("mean", (node, axes))
            case Pool(kernel=kernel):
                function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 3]
                pooling: dict[str, Any] = {"ceil_mode": True, "count_include_pad": False}
                return graph.call_function(function, (node, kernel), pooling)
            case Resize(dims=dims):
                mode = ("linear", "bilinear", "trilinear")[rank - 3]
                resizing: dict[str, Any] = {
                    "size": tuple(self._size(dim) for dim in dims),
                    "mode": mode,
                    "align_corners": False,
                }
                return graph.call_function(F.interpolate, (node,), resizing)
            case Project():
                return graph.create_node("call_module", module, (node,), name=name)
            case Channels():
                return node  # the backbone's own weights were changed
            case Cast(dtype=dtype):
                return graph.call_method("to", (node, DTYPES[dtype]))
            case Recover(values=values, dtype=dtype):
                return graph.call_function(layers.recover_indices, (node, self._given[values], DTYPES[dtype]))
            case Thin(axis=axis):
                return graph.call_function(layers.take_points, (node, self._choice(step), axis))

    def _choice(self, step: Thin) -> fx.Node:
        """Which points are taken: one choice for all leaves on a set."""
        key = step.model_copy(update={"axis": 0})
        if key not in self._choices:
            points = self._features[step.points]
            arguments = (points, step.count, step.how, step.points_axis, step.seed)
            self._choices[key] = self._graph.call_function(layers.choose_points, arguments)
        return self._choices[key]

    def _rearrange(self, step: Rearrange, node: fx.Node) -> fx.Node:
        """An einops pattern in torch's own words: unflatten, permute, flatten."""
        left, right = axis_groups(step.pattern)
        for axis in reversed(range(len(left))):
            if len(left[axis]) > 1:
                sizes = tuple(self._size(step.sizes[name]) for name in left[axis])
                node = self._graph.call_method("unflatten", (node, axis, sizes))
            elif not left[axis]:
                node = self._graph.call_method("squeeze", (node, axis))
        have = [name for names in left for name in names]
        want = [name for names in right for name in names]
        if have != want:
            node = self._graph.call_method("permute", (node, *[have.index(name) for name in want]))
        for axis, names in enumerate(right):
            if len(names) > 1:
                node = self._graph.call_method("flatten", (node, axis, axis + len(names) - 1))
            elif not names:
                node = self._graph.call_method("unsqueeze", (node, axis))
        return node

    def _size(self, dim: Dim) -> Any:
        """A size as a number, or as arithmetic on the sizes of the inputs."""
        if dim.constant is not None:
            return dim.constant
        known = {axis: fx.Proxy(self._axis(axis)) for axis in sorted(dim.axes)}
        value = dim.evaluate(known)
        return value.node if isinstance(value, fx.Proxy) else value

    def _axis(self, axis: str) -> fx.Node:
        if axis not in self._sizes:
            path, position = _where(axis, self._plan.target)
            name = {"B": "batch", "H": "height", "W": "width"}.get(axis, f"size_{axis}")
            node = self._given[path]
            self._sizes[axis] = self._graph.create_node("call_method", "size", (node, position), name=name)
        return self._sizes[axis]

    def _returned(self, leaves: Sequence[fx.Node], placeholders: Mapping[str, fx.Node]) -> Any:
        """The old module's container around the adapted leaves; an argument that it filled in is filled in."""
        target = self._plan.target
        value = self._container(target.outputs.tree, iter(leaves))
        filled = [name for name, path in target.filled.items() if path == ""]
        if not filled:
            return value
        argument = placeholders[filled[0]]
        if filled[0] in target.replaced_when_empty:
            return self._graph.call_function(layers.fill_in, (argument, value))
        self._graph.call_method("update", (argument, value))
        return argument

    def _container(self, tree: Tree, leaves: Any) -> Any:
        match tree:
            case Slot():
                return next(leaves)
            case Constant(value=value):
                return value
            case LeftOut(name=name):
                return self._graph.call_function(layers.LeftOut, (name,))
            case Opaque(type=name):
                fault = Mismatch(name, "tensors in containers", "an object", "wrap the module")
                raise BuildError(f"a {name} cannot be made anew", [fault])
            case Container(keys=keys):
                children = [self._container(child, leaves) for child in tree.children]
                return self._literal(tree, keys, children)

    def _literal(self, tree: Container, keys: Sequence[Any], children: list[Any]) -> Any:
        constructor, form = container_type(tree)
        match tree.kind:
            case "tuple":
                return tuple(children)
            case "list":
                return children
            case "dict":
                return dict(zip(keys, children, strict=True))
            case "ordered_dict":
                return self._graph.call_function(OrderedDict, (list(zip(keys, children, strict=True)),))
            case _ if form == "sequence":
                return self._graph.call_function(constructor, (children,))
            case _ if form == "positional":
                return self._graph.call_function(constructor, tuple(children))
            case _ if form == "keywords":
                return self._graph.call_function(constructor, (), dict(zip(map(str, keys), children, strict=True)))
            case _:
                return self._graph.call_function(constructor, (dict(zip(keys, children, strict=True)),))


def _where(axis: str, signature: Signature) -> tuple[str, int]:
    """An input tensor and the position in it that shows the size of an axis."""
    for path, spec in signature.inputs.items():
        for position, dim in enumerate(spec.dims):
            if dim == Dim.axis(axis):
                return path, position
    fault = Mismatch(axis, "an axis of an input", ", ".join(map(str, signature.inputs.leaves)), "name it in inputs=")
    raise BuildError(f"no input shows the size of axis {axis}", [fault])
