"""Edits: where an adapted module differs from its plan, since somebody changed it after it was built."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from autoadapt.adapting.building.graphs import adapter_names, learned_steps
from autoadapt.adapting.building.modules import AdaptedModule, is_edited
from autoadapt.adapting.operations import Project
from autoadapt.contracts.layer_kinds import CONVOLUTIONS
from autoadapt.errors import Mismatch

_REMEDY = "aa.build(new, net.plan)      as the plan says"


def edits(net: AdaptedModule) -> list[Mismatch]:
    """Mismatches for the graph, layers and tensors of an adapted module that are not as its plan says."""
    graph = Mismatch("net.graph", "the graph of its plan", "an edited one", _REMEDY)
    return [*([graph] if is_edited(net) else []), *other_parts(net)]


def other_parts(net: AdaptedModule) -> list[Mismatch]:
    """Mismatches for its layers and tensors alone."""
    return [*_other_adapters(net), *_further(net)]


def _other_adapters(net: AdaptedModule) -> Iterator[Mismatch]:
    """Generated layers that are missing, replaced or added."""
    for name, route in adapter_names(net.plan).items():
        steps = {called: step for called, step, _ in learned_steps(route)}
        for called, step in steps.items():
            path = f"adapters.{name}.{called}"
            try:
                found = net.get_submodule(path)
            except AttributeError:
                found = nn.Identity()
            if not _is_as_planned(found, step):
                shown = str(found).splitlines()[0]
                yield Mismatch(path, f"a map of {step.source} to {step.target} channels", shown, _REMEDY)
        held = dict(net.get_submodule("adapters").named_children()).get(name, nn.Module())
        for called, layer in held.named_children():
            if called not in steps:
                yield Mismatch(f"adapters.{name}.{called}", "nothing", str(layer).splitlines()[0], _REMEDY)


def _further(net: AdaptedModule) -> Iterator[Mismatch]:
    """Modules, parameters and buffers beside `backbone` and `adapters`."""
    children = {name for name, _ in net.named_children()} - {"backbone", "adapters"}
    tensors = [*net.named_parameters(recurse=False), *net.named_buffers(recurse=False)]
    for name in sorted(children) + [name for name, _ in tensors]:
        kind = type(getattr(net, name)).__name__
        yield Mismatch(name, "backbone and adapters alone", f"a {kind}", f"put {name} into a module around this one")


def _is_as_planned(layer: nn.Module, step: Project) -> bool:
    """Whether a layer is the planned linear layer or 1x1 convolution, with plain parameters, which may be sharded."""
    kinds = (nn.Linear,) if step.form == "linear" else CONVOLUTIONS
    if not any(isinstance(layer, kind) and type(layer).forward is kind.forward for kind in kinds):
        return False
    own = dict(layer.named_parameters(recurse=False))
    weight, is_biased = own.get("weight"), getattr(layer, "bias", None) is not None
    if weight is None or tuple(weight.shape) != (step.groups * step.target, step.source, *[1] * (weight.dim() - 2)):
        return False
    strides, padding = getattr(layer, "stride", ()), getattr(layer, "padding", ())
    at_places = all(one == 1 for one in strides) and all(one == 0 for one in padding)
    return at_places and getattr(layer, "groups", 1) == step.groups and is_biased == step.bias == ("bias" in own)
