"""Modules: plans made into torch.fx modules, straight-line code without the plan in it."""

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
from autoadapt.adapting.building.arguments import further_of
from autoadapt.adapting.building.cutting import tapped
from autoadapt.adapting.building.facts import RECIPES, copy_facts, filtered_call, recipe
from autoadapt.adapting.building.graphs import adapter_names, graph_of, learned_steps
from autoadapt.adapting.building.layer_sizes import refuse_large_layers
from autoadapt.adapting.building.native_views import read_natively
from autoadapt.adapting.building.printing import print_graph
from autoadapt.adapting.building.stems import with_stems
from autoadapt.adapting.operations import Project
from autoadapt.adapting.planning import Plan, Route
from autoadapt.adapting.verification import Verification, verify
from autoadapt.contracts.capturing.regions import HOOKS, callers_hooks
from autoadapt.contracts.capturing.told_statistics import statistics_reader
from autoadapt.contracts.closures import Closures
from autoadapt.contracts.signature import Signature, Statistics, TensorSpec
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

__all__ = ["AdaptedModule", "built", "is_edited", "own_attributes", "with_plan"]


_ADAPTED = ", adapted"
"""Behind the class of a backbone, as titles show it."""


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
        """The contract it keeps."""
        return self.plan.target

    @property
    def autoadapt_title(self) -> tuple[str, str]:
        """What titles show: the class of the backbone, and its name in a zoo."""
        source = self.plan.source
        return source.name if source.name.endswith(_ADAPTED) else source.name + _ADAPTED, source.origin

    @property
    def code(self) -> str:
        """The forward pass as a person would write it; torch.fx runs the same graph, and frees memory early."""
        return print_graph(self.graph).function()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """As of any module; which adapters are calibrated goes along with the versions of modules."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if "calibrated" in vars(self) and hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]]["calibrated"] = vars(self)["calibrated"]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        """As of any module; adapters are as calibrated as those whose weights they get, where a state says so."""
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        if local_metadata:
            vars(self)["calibrated"] = tuple(local_metadata.get("calibrated", ()))

    def _repr_html_(self) -> str:
        """In a notebook, the plan as a picture and a table."""
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
        """Prove that it keeps its contract; the arguments are those of `autoadapt.verify`."""
        options: dict[str, Any] = {"sizes": sizes, "batches": batches, "thorough": thorough, "seconds": seconds}
        return verify(self.alone(), self.signature, inputs=inputs, memory=memory, seed=seed, **options)

    def alone(self) -> AdaptedModule:
        """It with all that it returns, over the same parts.

        As the first module of a swapped region it hands on only what is read at its place, by a hook of what its
        `hand_on` is. Any other is itself.
        """
        if "hand_on" not in self.__dict__:
            return self
        made = copy.copy(self)
        passes = made.__dict__.pop("hand_on")
        for kind, told in HOOKS.items():
            callers = callers_hooks(self, kind)  # they are for what is read at its place
            hooks: OrderedDict[int, Any] = vars(self)[kind]
            gone = {*callers, *(key for key, hook in hooks.items() if getattr(hook, "__self__", None) is passes)}
            for name in (kind, *told):
                setattr(made, name, OrderedDict((k, one) for k, one in vars(self)[name].items() if k not in gone))
        return made

    def borrow(self, functions: Mapping[str, Callable[..., Any]], *, properties: Collection[str] = ()) -> None:
        """Take over functions of another class, to run on this module as its methods or properties."""
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
        """Write the code anew; called by torch.fx.

        torch.fx gives each module a `__call__` that prints its own message to stderr when the forward pass raises;
        the exception says it all. That of `nn.Module` is looked up at each call, since tracers put their own there.
        """
        written = super().recompile()
        del type(self).__call__
        return written

    def to_folder(self, folder: str | os.PathLike[str], module_name: str = "FxModule") -> None:
        """Refused: torch.fx would pickle the backbone, and leave out what the forward pass calls.

        Raises:
            BuildError: Always.
        """
        where = f"{type(self).__name__}.to_folder"
        fault = Mismatch(where, "a file of plain PyTorch", "a folder with pickles", 'aa.to_source(net, "net.py")')
        raise BuildError("an adapted module is not written by torch.fx", [fault])

    def __prepare_scriptable__(self) -> AdaptedModule:
        """Called by torch.jit.script, also of a bigger model, before it compiles anything.

        Raises:
            BuildError: It has taps, which are hooks in Python, or arguments that need not be given.
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
        """Called where it is copied or unpickled; an edited graph may read what stands in the rest of the state."""
        self.__dict__.update({name: value for name, value in state.items() if name != _GRAPH})
        if _GRAPH in state:
            self.graph = state[_GRAPH]


@statistics_reader
def _of_adapted(module: nn.Module) -> Statistics | None:
    """An adapted module takes what the old one took."""
    return module.plan.target.statistics if isinstance(module, AdaptedModule) else None


@torch.inference_mode(False)
def built(new: nn.Module, plan: Plan, *, like: nn.Module | None = None, share: bool = True) -> AdaptedModule:
    """As `build`, of the very module that the plan was made for."""
    check_type(share, bool, "share", "share=False", BuildError)
    refuse_large_layers(new, plan)
    backbone = view(new) if share else duplicate(new)
    read_natively(backbone, plan)
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
    """An adapted module with another plan over the same weights: the backbone as it was built, and fewer layers.

    Args:
        net: As its plan says; it is not changed.
        plan: Its own, with layers left out.
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
    """The layers of a route that have parameters, of the dtype that they read: autocast inside hands on another."""
    device = reference.device
    with torch.device("cpu"):  # also where the caller's default is the meta device, which holds no values
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
    """What users and consumers put on the module: attributes, hooks, mode."""
    return {name: value for name, value in net.__dict__.items() if name not in _GRAPH_STATE}


def own_attributes(net: AdaptedModule) -> dict[str, Any]:
    """What was put on an adapted module besides its parts, hooks and mode, by name."""
    return {name: value for name, value in _extras(net).items() if name not in vars(nn.Module())}


def is_edited(net: AdaptedModule) -> bool:
    """Whether the graph that runs is another than its plan says: passes of torch.fx edit it in place."""
    return str(net.graph) != str(graph_of(net.plan))


_GRAPH = "edited graph"


def _edited(net: AdaptedModule) -> dict[str, fx.Graph]:
    """A copy of the graph where it was edited; it refers to no module."""
    return {_GRAPH: copy.deepcopy(net.graph)} if is_edited(net) else {}


def _restored(plan: Plan, modules: Mapping[str, nn.Module | None]) -> AdaptedModule:
    """The graph emitted anew around modules that stand ready; also what pickle calls."""
    root = nn.Module()
    for name, module in modules.items():
        root.add_module(name, module)
    net = AdaptedModule(root, graph_of(plan), class_name="AdaptedModule")
    net._modules.update(modules)
    net.__dict__["_plan"] = plan
    return net
