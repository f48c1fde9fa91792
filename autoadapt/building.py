"""Building: a plan made into a torch.fx module, straight-line code without the plan in it."""

from __future__ import annotations

import copy
import operator
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from autoadapt import layers
from autoadapt.capturing import Arguments
from autoadapt.capturing.probing import quiet
from autoadapt.dims import Dim
from autoadapt.errors import BuildError, Mismatch
from autoadapt.operations import (
    Cast,
    DropPrefix,
    Mean,
    Operation,
    Pool,
    Project,
    Rearrange,
    Recover,
    Resize,
    axis_groups,
)
from autoadapt.planning import Plan, Route
from autoadapt.signature import DTYPES, Signature, TensorSpec
from autoadapt.trees import Constant, Container, LeftOut, Opaque, Path, Slot, Tree, container_type, flatten, path_text, paths, rebuild
from autoadapt.verification import Verification, verify
from autoadapt.views import copy_module, cut, freeze_unused, on_meta, tap, view

__all__ = ["AdaptedModule", "build", "param_groups"]

# What people read off a backbone, by the habits of timm, torchvision, smp, transformers and detectron2.
_FACTS = (
    "channels",
    "feature_channels",
    "feature_info",
    "num_channels",
    "num_features",
    "out_channels",
    "out_strides",
    "output_shape",
    "output_stride",
    "size_divisibility",
    "stride",
    "strides",
)
_RECIPES = ("group_matcher", "no_weight_decay", "set_grad_checkpointing")


class AdaptedModule(fx.GraphModule):
    """A backbone and its adapters behind the signature of another module.

    State-dict keys are `backbone.<names in the backbone>` and `adapters.<output>.<step>.*`. `print(net.code)` shows
    the forward pass.
    """

    _plan: Plan

    @property
    def plan(self) -> Plan:
        """The plan it was built from."""
        return self._plan

    @property
    def signature(self) -> Signature:
        """The contract it keeps."""
        return self._plan.target

    def verify(self, inputs: object = None, *, thorough: bool = False) -> Verification:
        """Prove that it keeps its contract; see `autoadapt.verify`."""
        return verify(self, self.signature, inputs=inputs, thorough=thorough)

    def borrow(self, functions: Mapping[str, Callable[..., Any]], *, properties: Collection[str] = ()) -> None:
        """Take over functions of another class, to run on this module as its methods or properties."""
        self.__dict__["borrowed"] = {name: (function, name in properties) for name, function in functions.items()}

    def __getattr__(self, name: str) -> Any:
        if name in _RECIPES:
            return _recipe(self, name)
        function, is_property = self.__dict__.get("borrowed", {}).get(name, (None, False))
        if function is not None:
            return function(self) if is_property else MethodType(function, self)
        return super().__getattr__(name)

    def __deepcopy__(self, memo: dict[int, Any]) -> AdaptedModule:
        made = _restored(self._plan, copy.deepcopy(self._modules, memo), copy.deepcopy(_extras(self), memo))
        memo[id(self)] = made
        return made

    def __copy__(self) -> AdaptedModule:
        return _restored(self._plan, dict(self._modules), _extras(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._plan, self._modules, _extras(self))


def build(new: nn.Module, plan: Plan, *, like: nn.Module | None = None, share: bool = True) -> AdaptedModule:
    """Make a plan into a module.

    Args:
        new: The module that the plan's source signature was captured from; it is not changed.
        plan: What to build.
        like: The old module; what consumers read off it (`out_channels`, `strides`, ...) is said by the new one too.
        share: Use the storage of `new`'s weights; otherwise copy them.

    Returns:
        A torch.fx module in the mode of `new`, on its device and of its dtype.

    Raises:
        BuildError: The plan needs a container class that is not imported, or two outputs have one name.
    """
    backbone = view(new) if share else copy.deepcopy(new)
    plan = _tapped(backbone, plan)
    reference = next((p for p in backbone.parameters() if p.is_floating_point()), torch.empty(0))
    adapters = nn.Module()
    for name, route in _module_names(plan).items():
        made = _route_layers(route, reference)
        if made is not None:
            adapters.add_module(name, made)
    net = _restored(plan, {"backbone": backbone, "adapters": adapters}, {})
    net.train(new.training)
    for name in _FACTS if like is not None else ():
        if hasattr(like, name):
            setattr(net, name, _fact(getattr(like, name)))
    return net


def _tapped(backbone: nn.Module, plan: Plan) -> Plan:
    """Put the taps on a view and take off what they leave without use; gives the plan with what was really cut."""
    if not plan.taps:
        return plan
    tap(backbone, [(one.module, one.call, one.path) for one in plan.taps.values()])
    source = plan.source

    def run(module: nn.Module) -> list[torch.Tensor]:
        tensors = [
            torch.empty(spec.shape(source.sizes()), dtype=spec.torch_dtype, device="meta")
            for spec in source.inputs.leaves
        ]
        arguments = Arguments(rebuild(source.inputs.tree, tensors), source.positional)
        with quiet(), torch.device("meta"), torch.set_grad_enabled(True):
            return flatten(arguments.call(module))[1]

    def runs(module: nn.Module) -> bool:
        try:
            return len(run(copy_module(module, on_meta).eval())) == len(plan.taps)
        except Exception:  # whatever it raises, the cut is taken back
            return False

    done = cut(backbone, plan.cut, runs)
    freeze_unused(backbone, run)
    return plan.model_copy(update={"cut": tuple(done)})


def param_groups(net: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of an adapted module in two lists, `backbone` and `adapters`, for optimisers."""
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "adapters": []}
    for name, parameter in net.named_parameters():
        groups["adapters" if name.startswith("adapters.") else "backbone"].append(parameter)
    return groups


class _Said:
    """A method without arguments whose answer is known."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self) -> Any:
        return copy.copy(self._value)


def _fact(value: Any) -> Any:
    return _Said(value()) if callable(value) else copy.deepcopy(value)


def _recipe(net: AdaptedModule, name: str) -> Any:
    """A training recipe's method of the backbone, its parameter names as they are in the adapted module."""
    method = getattr(net.backbone, name)
    if name == "no_weight_decay":
        return lambda: {f"backbone.{parameter}" for parameter in method()}
    if name == "group_matcher":
        return lambda coarse=False: _prefixed(method(coarse=coarse))
    return method


def _prefixed(patterns: Any) -> Any:
    match patterns:
        case str():
            return patterns.replace("^", r"^backbone\.", 1) if patterns.startswith("^") else rf"^backbone\.{patterns}"
        case tuple():
            return tuple(_prefixed(item) if isinstance(item, (str, tuple)) else item for item in patterns)
        case list():
            return [_prefixed(item) for item in patterns]
        case Mapping():
            return {key: _prefixed(item) for key, item in patterns.items()}
        case _:
            return patterns


_GRAPH_STATE = frozenset(fx.GraphModule(nn.Module(), fx.Graph()).__dict__.keys() - nn.Module().__dict__.keys()) | {
    "_modules",
    "_plan",
    "_code",
    "_graph",
}


def _extras(net: AdaptedModule) -> dict[str, Any]:
    """What users and consumers put on the module: attributes, hooks, mode."""
    return {name: value for name, value in net.__dict__.items() if name not in _GRAPH_STATE}


def _restored(plan: Plan, modules: Mapping[str, nn.Module | None], extras: Mapping[str, Any]) -> AdaptedModule:
    """The graph emitted anew around modules that stand ready; also what pickle calls."""
    root = nn.Module()
    for name, module in modules.items():
        root.add_module(name, module)
    net = AdaptedModule(root, _Emitter(plan).graph(), class_name="AdaptedModule")
    net._modules.update(modules)
    net.__dict__.update(extras)
    net._plan = plan
    return net


def _module_names(plan: Plan) -> dict[str, Route]:
    """A name for the adapter of each route, allowed for a module and unlike the others."""
    names: dict[str, Route] = {}
    for route in plan.routes:
        name = "".join(char if char.isalnum() or char == "_" else "_" for char in route.target)
        while name in names or hasattr(nn.Module, name):
            name += "_"
        names[name] = route
    return names


def _route_layers(route: Route, reference: torch.Tensor) -> nn.Module | None:
    """The layers of a route that have parameters."""
    container = nn.Module()
    for name, step, spec in _learned(route):
        container.add_module(name, _layer(step, spec).to(device=reference.device, dtype=reference.dtype))
    return container if container._modules else None


def _learned(route: Route) -> list[tuple[str, Project, TensorSpec]]:
    """Name, operation and input of each learned step."""
    found = [(step, spec) for step, spec in zip(route.steps, route.specs, strict=False) if isinstance(step, Project)]
    return [("project" if i == 0 else f"project_{i + 1}", step, spec) for i, (step, spec) in enumerate(found)]


def _layer(step: Project, spec: TensorSpec) -> nn.Module:
    if step.form == "linear":
        return layers.linear(step.source, step.target, bias=step.bias)
    return layers.conv1x1(step.source, step.target, spatial=len(spec.dims) - 2, bias=step.bias)


class _Emitter:
    """Writes the graph of a plan; fx nodes only, no tensors."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._graph = fx.Graph()
        self._sizes: dict[str, Any] = {}
        self._given: dict[str, fx.Node] = {}

    def graph(self) -> fx.Graph:
        placeholders = self._placeholders()
        returned = self._call_backbone()
        leaves = [self._route(name, route, returned) for name, route in _module_names(self._plan).items()]
        self._graph.output(self._returned(leaves, placeholders))
        self._graph.lint()
        return self._graph

    def _placeholders(self) -> dict[str, fx.Node]:
        """One argument for each of the old module's; those that were no tensors have defaults."""
        found: dict[str, fx.Node] = {}
        optional = False
        for name, tree in self._plan.target.arguments.items():
            optional = optional or isinstance(tree, Constant)
            default = (tree.value if isinstance(tree, Constant) else None,) if optional else ()
            node = self._graph.create_node("placeholder", name, args=default, name=name)
            found[name] = node
            self._take_apart(tree, node, (name,), self._given)
        return found

    def _take_apart(self, tree: Tree, node: fx.Node, path: Path, found: dict[str, fx.Node]) -> None:
        """Note the node of every tensor in a tree; nodes that nothing uses are removed in the end."""
        match tree:
            case Slot():
                found[path_text(path)] = node
            case Container(kind=kind, keys=keys, children=children):
                for key, child in zip(keys, children, strict=True):
                    if paths(child):
                        by_name = kind in ("named_tuple", "dataclass")
                        taken = self._graph.call_function(getattr if by_name else operator.getitem, (node, key))
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
        learned = {id(step): called for called, step, _ in _learned(route)}
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
                options = {"ceil_mode": True, "count_include_pad": False}
                return graph.call_function(function, (node, kernel), options)
            case Resize(dims=dims):
                mode = ("linear", "bilinear", "trilinear")[rank - 3]
                options = {"size": tuple(self._size(dim) for dim in dims), "mode": mode, "align_corners": False}
                return graph.call_function(F.interpolate, (node,), options)
            case Project():
                return graph.create_node("call_module", module, (node,), name=name)
            case Cast(dtype=dtype):
                return graph.call_method("to", (node, DTYPES[dtype]))
            case Recover(values=values, dtype=dtype):
                return graph.call_function(layers.recover_indices, (node, self._given[values], DTYPES[dtype]))

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
        return self._sizes[axis]  # type: ignore[no-any-return]

    def _returned(self, leaves: Sequence[fx.Node], placeholders: Mapping[str, fx.Node]) -> Any:
        """The old module's container around the adapted leaves; an argument that it filled in is filled in."""
        target = self._plan.target
        value = self._container(target.outputs.tree, iter(leaves))
        filled = [name for name, path in target.filled.items() if path == ""]
        if not filled:
            return value
        argument = placeholders[filled[0]]
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
