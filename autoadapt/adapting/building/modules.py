"""Modules: `AdaptedModule`, a torch.fx module that is built from a plan."""

from __future__ import annotations

import copy
import inspect
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import fx, nn

from autoadapt.adapting import layers
from autoadapt.adapting.building.cutting import tapped
from autoadapt.adapting.building.forward_arguments import further_of
from autoadapt.adapting.building.graphs import adapter_names, graph_of, learned_steps
from autoadapt.adapting.building.kept_attributes import RECIPES, copy_facts, filtered_call, recipe
from autoadapt.adapting.building.layer_sizes import refuse_large_layers
from autoadapt.adapting.building.printing import print_graph
from autoadapt.adapting.building.stems import with_stems
from autoadapt.adapting.operations import Native, Project
from autoadapt.adapting.planning import Plan, Route
from autoadapt.adapting.verification import Verification, verify
from autoadapt.contracts.capturing.regions import HOOKS, callers_hooks
from autoadapt.contracts.capturing.told_statistics import statistics_reader
from autoadapt.contracts.closures import Closures
from autoadapt.contracts.native import lift_of, tables_of
from autoadapt.contracts.signature import Signature, Statistics, TensorSpec, image_of
from autoadapt.contracts.views import (
    aliased,
    copy_module,
    duplicate,
    keep_modes,
    uncompiled,
    view,
)
from autoadapt.errors import BuildError, Mismatch
from autoadapt.errors.given import check_type

_ADAPTED = ", adapted"
"""Added to the class name of a backbone in titles."""


class AdaptedModule(fx.GraphModule):
    """A backbone and its adapters behind the signature of another module.

    State-dict keys are `backbone.<names in the backbone>` and `adapters.<output>.<step>.*`. `print(net.code)` shows
    the forward pass.
    """

    __jit_unused_properties__ = [  # noqa: RUF012 - declared by torch.fx; torch.jit.script leaves them out
        *(name for name, _ in inspect.getmembers(fx.GraphModule, lambda one: isinstance(one, property))),
        "autoadapt_title",
        "plan",
        "signature",
    ]

    @property
    def plan(self) -> Plan:
        """The plan it was built from."""
        plan: Plan = self.__dict__["_plan"]  # an annotation in the class would be compiled by torch.jit.script
        return plan

    @property
    def signature(self) -> Signature:
        """The contract that it keeps."""
        return self.plan.target

    @property
    def autoadapt_title(self) -> tuple[str, str]:
        """For titles: the class of the backbone, and its name in a model zoo."""
        source = self.plan.source
        return source.name if source.name.endswith(_ADAPTED) else source.name + _ADAPTED, source.origin

    @property
    def code(self) -> str:
        """The forward pass as a person would write it; the code that torch.fx runs does the same."""
        return print_graph(self.graph).function()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Also save which adapters are calibrated, in the metadata of the state dict."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if "calibrated" in vars(self) and hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]]["calibrated"] = vars(self)["calibrated"]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        """Also load which adapters are calibrated, if the state dict has metadata."""
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        if local_metadata:
            vars(self)["calibrated"] = tuple(local_metadata.get("calibrated", ()))

    def _repr_html_(self) -> str:
        """For notebooks: the plan as a picture and a table."""
        return self.plan._repr_html_()

    def __str__(self) -> str:
        return f"{nn.Module.__repr__(self)}\n\n{self.code}"

    def verify(
        self,
        inputs: object = None,
        *,
        sizes: Sequence[Mapping[str, int]] | None = None,
        batches: Sequence[int] = (1, 3),
        thorough: bool = False,
        seconds: float = 600,
        memory: int = 8 << 30,
        seed: int = 0,
    ) -> Verification:
        """Check that it keeps its contract; the arguments are those of `autoadapt.verify`."""
        options: dict[str, Any] = {"sizes": sizes, "batches": batches, "thorough": thorough, "seconds": seconds}
        return verify(self.alone(), self.signature, inputs=inputs, memory=memory, seed=seed, **options)

    def alone(self) -> AdaptedModule:
        """The module as it was built, without hooks that reduce its outputs, over the same parts.

        As the first module of a swapped region, it has a hook of its attribute `hand_on` that returns only the outputs
        that are read there. This is a shallow copy without that hook and without the caller's hooks, which belong to
        that place; other adapted modules are returned themselves.
        """
        if "hand_on" not in self.__dict__:
            return self
        made = copy.copy(self)
        passes = made.__dict__.pop("hand_on")
        for kind, options in HOOKS.items():
            callers = callers_hooks(self, kind)  # they expect the outputs that are read at its place
            hooks: OrderedDict[int, Any] = vars(self)[kind]
            gone = {*callers, *(key for key, hook in hooks.items() if getattr(hook, "__self__", None) is passes)}
            for name in (kind, *options):
                setattr(made, name, OrderedDict((k, one) for k, one in vars(self)[name].items() if k not in gone))
        return made

    def borrow(self, functions: Mapping[str, Callable[..., Any]], *, properties: Collection[str] = ()) -> None:
        """Add functions of another class to this module, as methods or properties.

        Args:
            functions: By the names that they get.
            properties: The names of those that become properties.
        """
        self.__dict__["borrowed"] = {name: (function, name in properties) for name, function in functions.items()}

    def __getattr__(self, name: str) -> Any:
        if name in RECIPES:
            return recipe(self.backbone, name)
        if name == "forward_with_filtered_kwargs" and "backbone_type" in self.__dict__:  # a backbone of transformers
            return MethodType(filtered_call, self)
        function, is_property = self.__dict__.get("borrowed", {}).get(name, (None, False))
        if function is not None:
            return function(self) if is_property else MethodType(function, self)
        return super().__getattr__(name)

    def recompile(self) -> Any:
        """Generate the code of the graph; called by torch.fx.

        The `__call__` that torch.fx then sets is removed: it prints a message to stderr when the forward pass raises,
        and hides the one of `nn.Module`, which tracers replace.
        """
        written = super().recompile()
        del type(self).__call__
        return written

    def to_folder(self, folder: str | os.PathLike[str], module_name: str = "FxModule") -> None:
        """Refuse: torch.fx would pickle the backbone, and leave out the functions that the forward pass calls.

        Raises:
            BuildError: Always.
        """
        where = f"{type(self).__name__}.to_folder"
        fault = Mismatch(where, "a file of plain PyTorch", "a folder with pickles", 'aa.to_source(net, "net.py")')
        raise BuildError("an adapted module is not written by torch.fx", [fault])

    def __prepare_scriptable__(self) -> AdaptedModule:
        """Called by torch.jit.script before it compiles this module or a model that contains it.

        Raises:
            BuildError: It has taps, which are Python hooks; it is a swapped region; or it has optional arguments.
        """
        if self.plan.taps:
            found = f"hooks at {', '.join(tap.module or 'the whole' for tap in self.plan.taps.values())}"
            fault = Mismatch(type(self).__name__, "a forward pass without hooks", found, 'aa.export(net, "net.pt")')
            raise BuildError("an adapted module with taps is not compiled by torch.jit.script", [fault])
        if "hand_on" in self.__dict__:
            found = "levels that other modules of the model hand on"
            fault = Mismatch(
                type(self).__name__, "what it returns at its place", found, 'aa.export(model, "model.pt2")'
            )
            raise BuildError("a swapped region is not compiled by torch.jit.script", [fault])
        plain = self.plan.target.plain_arguments
        if plain:
            fault = Mismatch(
                type(self).__name__, "arguments that are tensors", ", ".join(plain), 'aa.export(net, "net.pt")'
            )
            raise BuildError("an adapted module with optional arguments is not compiled by torch.jit.script", [fault])
        if further_of(self.plan.target):  # a script takes no further arguments
            parameters = tuple(one for one in self.plan.target.parameters if one.further is None)
            target = self.plan.target.model_copy(update={"parameters": parameters})
            return with_plan(self, self.plan.model_copy(update={"target": target}))
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> AdaptedModule:
        closures = Closures(self)
        copied_above = not closures.memo.keys().isdisjoint(memo)
        memo.update({} if copied_above else closures.memo)
        made = _restored(self.plan, copy.deepcopy(self._modules, memo))
        memo[id(self)] = made
        made.__setstate__(copy.deepcopy(_extras(self), memo) | _edited(self))
        if not copied_above:
            closures.fill(made, memo)
        keep_modes(self, made)
        return made

    def __copy__(self) -> AdaptedModule:
        made = _restored(self.plan, self._modules)
        made.__setstate__(_extras(self) | _edited(self))
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.plan, self._modules), _extras(self) | _edited(self)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Called for a copy or on unpickling; the graph is set last, since an edited one may read other attributes."""
        self.__dict__.update({name: value for name, value in state.items() if name != _GRAPH})
        if _GRAPH in state:
            self.graph = state[_GRAPH]


@statistics_reader
def _of_adapted(module: nn.Module) -> Statistics | None:
    """An adapted module takes images that are normalised as for the old one."""
    return module.plan.target.statistics if isinstance(module, AdaptedModule) else None


@torch.inference_mode(False)
def built(new: nn.Module, plan: Plan, *, like: nn.Module | None = None, share: bool = True) -> AdaptedModule:
    """Like `build`, without the check that the plan was made for this module."""
    check_type(share, bool, "share", "share=False", BuildError)
    refuse_large_layers(new, plan)
    backbone = view(new) if share else duplicate(new)
    _read_natively(backbone, plan)
    plan = with_stems(backbone, tapped(backbone, plan))
    reference = next((p for p in backbone.parameters() if p.is_floating_point()), torch.empty(0))
    adapters = nn.ModuleDict()
    for name, route in adapter_names(plan).items():
        made = _route_layers(route, reference)
        if made is not None:
            adapters.add_module(name, made)
    net = _restored(plan, {"backbone": backbone, "adapters": adapters})
    for part in (net, *adapters.modules()):
        part.training = new.training
    keep_modes(uncompiled(new), backbone)
    if like is not None:
        copy_facts(like, net)
    return net


def with_plan(net: AdaptedModule, plan: Plan) -> AdaptedModule:
    """An adapted module of another plan that shares the weights, with the same backbone and fewer generated layers.

    Args:
        net: A module without edits; it is not changed.
        plan: The module's own plan, with layers left out.
    """
    parts = copy_module(net, aliased)
    names = {name for name, route in adapter_names(plan).items() if learned_steps(route)}
    kept = {name: one for name, one in parts.get_submodule("adapters").named_children() if name in names}
    adapters = nn.ModuleDict(kept)
    made = _restored(plan, {"backbone": parts.get_submodule("backbone"), "adapters": adapters})
    made.training, adapters.training = net.training, net.get_submodule("adapters").training
    copy_facts(net, made)
    if "calibrated" in vars(net):
        made.__dict__["calibrated"] = tuple(name for name in vars(net)["calibrated"] if name in kept)
    return made


def _route_layers(route: Route, reference: torch.Tensor) -> nn.Module | None:
    """The generated layers of a route, in the dtypes of their inputs; None where it has none.

    Args:
        route: A route of the plan.
        reference: A tensor on the device that the layers are put on.
    """
    device = reference.device
    with torch.device("cpu"):  # the caller's default may be the meta device, on which weights have no values
        made = {name: _layer(step, spec).to(device, spec.torch_dtype) for name, step, spec in learned_steps(route)}
    if len(made) > 1:
        return nn.ModuleDict(made)
    return nn.Sequential(OrderedDict(made)) if made else None


def _layer(step: Project, spec: TensorSpec) -> nn.Module:
    if step.form == "linear":
        return layers.linear(step.source, step.target, bias=step.bias)
    channels = step.groups * step.source, step.groups * step.target
    return layers.conv1x1(*channels, spatial=len(spec.dims) - 2, bias=step.bias, groups=step.groups)


_GRAPH_STATE = frozenset(fx.GraphModule(nn.Module(), fx.Graph()).__dict__.keys() - nn.Module().__dict__.keys()) | {
    "_modules",
    "_plan",
    "_code",
    "_graph",
    "_compiled_call_impl",  # torch's own modules leave it out as well
}


def _extras(net: AdaptedModule) -> dict[str, Any]:
    """The attributes of a module that do not follow from its plan and parts: hooks, mode, and what was set on it."""
    return {name: value for name, value in net.__dict__.items() if name not in _GRAPH_STATE}


def own_attributes(net: AdaptedModule) -> dict[str, Any]:
    """Attributes that were set on an adapted module, by name, without its parts, hooks and mode."""
    return {name: value for name, value in _extras(net).items() if name not in vars(nn.Module())}


def is_edited(net: AdaptedModule) -> bool:
    """Whether the graph differs from that of the plan; passes of torch.fx edit it in place."""
    return str(net.graph) != str(graph_of(net.plan))


_GRAPH = "edited graph"


def _edited(net: AdaptedModule) -> dict[str, fx.Graph]:
    """A copy of the graph if it was edited, as an entry of a pickled state; it refers to no module."""
    return {_GRAPH: copy.deepcopy(net.graph)} if is_edited(net) else {}


def _restored(plan: Plan, modules: Mapping[str, nn.Module | None]) -> AdaptedModule:
    """An adapted module of a plan and finished parts; also called on unpickling."""
    root = nn.Module()
    for name, module in modules.items():
        root.add_module(name, module)
    net = AdaptedModule(root, graph_of(plan), class_name="AdaptedModule")
    net._modules.update(modules)
    net.__dict__["_plan"] = plan
    return net


def _read_natively(view: nn.Module, plan: Plan) -> None:
    """Let a view take images of other sizes than it was built for, if the plan has a `Native` step.

    Parameters and their names stay as they are.

    Raises:
        BuildError: The module is not the one that the plan was made for, or it is not known how to do so here.
    """
    steps = [step for route in plan.inputs for step in route.steps if isinstance(step, Native)]
    if not steps:
        return
    wanted, image = steps[0].sizes, image_of(plan.source.inputs)
    lift = lift_of(view) or (tables_of(view, wanted.size, image[1]) if image is not None else None)
    if lift is None or (lift.what, tuple(lift.size)) != (wanted.what, wanted.size):
        found = f"{lift.what}, built for {lift.size[0]}x{lift.size[1]}" if lift is not None else "nothing that does"
        expected = f"{wanted.what}, built for {wanted.size[0]}x{wanted.size[1]}"
        fault = Mismatch(type(view).__name__, expected, found, 'aa.adapt(new, like=old, resolution="fixed")')
        raise BuildError(f"{type(view).__name__} cannot be made to read images at their own size", [fault])
    lift.apply(view)
