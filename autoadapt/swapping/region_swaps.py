"""Region swaps: modules of a model that are run one after the other, replaced by one adapted module and stand-ins."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.contracts.capturing import Arguments, capture
from autoadapt.contracts.capturing.regions import (
    HOOKS,
    Region,
    RegionModule,
    RegionPath,
    callers_hooks,
    find_region,
    region_text,
    trace,
    traces_of,
)
from autoadapt.contracts.signature import Signature
from autoadapt.errors import CaptureError, Mismatch, SwapError
from autoadapt.swapping.arriving_statistics import channels_at, statistics_at
from autoadapt.swapping.passes import Handing, Passes, take_off
from autoadapt.swapping.places import Place, set_modules
from autoadapt.swapping.read_attributes import plain_attributes
from autoadapt.swapping.readings import Reading
from autoadapt.swapping.region_refusals import refuse_moving, refuse_parts, with_moving_sizes
from autoadapt.swapping.results import Part
from autoadapt.swapping.stage_remarks import kept_remarks
from autoadapt.swapping.stand_ins import StandIn, passes_of
from autoadapt.swapping.successors import Options, Successor, prepare
from autoadapt.swapping.watching import Example


@dataclass(frozen=True)
class RegionSwap:
    """What takes the place of a region: its facts, and how to make it once these are agreed to."""

    region: Region
    module: RegionModule
    """It as a module of its own, over the same weights."""
    arguments: Arguments
    """What that is called with."""
    contract: Signature
    """What the region returns: its outputs, and what functions between its members take."""
    successor: Successor
    old: Mapping[str, nn.Module]
    """The members by their paths."""
    also_at: Mapping[str, Sequence[str]]
    """Other paths of the members."""

    def build(self) -> Parts:
        """The adapted module and the stand-ins."""
        net = self.successor.build()
        assert isinstance(net, AdaptedModule), "a region is served by an adapted module"
        served = net.signature.outputs.paths if len(self.region.named) > 1 else self.region.named
        handing = Handing.of(self.region, self.contract, served)
        for name, value in plain_attributes(self.old[self.region.first]).items():
            if hasattr(nn.Module, name) or not hasattr(net, name):  # one called `type`, say, hides a method as before
                setattr(net, name, value)
        return _parts(net, handing, self.old, self.also_at)


@dataclass(frozen=True)
class Parts:
    """Modules to be set together, and what they share."""

    modules: Mapping[str, nn.Module]
    """By path, the adapted one first."""
    passes: Passes
    also_at: Mapping[str, Sequence[str]]

    @property
    def net(self) -> AdaptedModule:
        """The adapted module."""
        net = next(iter(self.modules.values()))
        assert isinstance(net, AdaptedModule), "built as one"
        return net

    def copied(self, copy: Callable[[nn.Module], nn.Module]) -> Parts:
        """The same of copies, which share what they share among themselves."""
        made = list(copy(nn.ModuleList(self.modules.values())).children())
        passes = passes_of(made[0])
        assert passes is not None, "it is a copy of one that has them"
        return replace(self, modules=dict(zip(self.modules, made, strict=True)), passes=passes)

    def put_in(self, model: nn.Module) -> None:
        """Set them in a model; all or none."""
        old = {path: model.get_submodule(path) for path in self.modules}
        set_modules(model, {at: m for path, m in self.modules.items() for at in (path, *self.also_at[path])})
        for path, module in self.modules.items():
            move_hooks(old[path], module)
        if self.passes.handing.parent is not None:
            self.passes.put_on(model.get_submodule(self.passes.handing.parent))
        take_off(model, [one for module in model.modules() if (one := passes_of(module)) is not None])


def put_region(model: nn.Module, net: AdaptedModule, handing: Handing) -> None:
    """Put an adapted module and stand-ins in the place of a region that is known already, as when it is restored."""
    old = {path: model.get_submodule(path) for path in handing.paths}
    _parts(net, handing, old, _other_paths(model, old)).put_in(model)


def _parts(
    net: AdaptedModule, handing: Handing, old: Mapping[str, nn.Module], also_at: Mapping[str, Sequence[str]]
) -> Parts:
    passes = Passes(handing)
    passes.take_over(net)
    modules: dict[str, nn.Module] = {handing.paths[0]: net}
    for path, module in old.items():
        if path not in modules:
            modules[path] = StandIn(path, passes, plain_attributes(module))
            modules[path].training = module.training
    return Parts(modules, passes, also_at)


def plan_region(
    model: nn.Module, path: RegionPath, new: nn.Module | str, example: Example, options: Options
) -> RegionSwap:
    """Find a region, capture it where it runs and plan how a module serves what is read of it; nothing is built.

    Raises:
        AdaptError: It is no region, or cannot be served.
    """
    if isinstance(new, str):
        fault = Mismatch("new", "a module", repr(new), "swap(model, path, module, inputs=x)")
        raise SwapError("a generated layer takes the place of one module, not of a region", [fault])
    region = _whole_region(model, path, example, options.outputs or ())
    refuse_lost_hooks(model, region)
    if not region.read:
        fault = Mismatch(region_text(path), "a region of which something is read", "nothing is", "print(model)")
        raise SwapError(f"nothing reads what comes out of `{region_text(path)}`", [fault])
    module = RegionModule(model, region, example.run)
    arguments = module.call
    refuse_moving(region, module, arguments)
    region = with_moving_sizes(region, module, arguments)
    contract = capture(module, arguments).model_copy(update={"name": region_text(path)})
    old = {path: model.get_submodule(path) for path in region.members}
    place = Place(region.first, _Members(old))
    reading = Reading(calls=[arguments] * region.rounds)
    statistics = statistics_at(model, example, region.first, new, options.input_statistics)
    channels = channels_at(model, example, region.first, new, options.channels)
    served = replace(options, outputs=_outputs(region, options, path), input_statistics=statistics, channels=channels)
    successor = prepare(place, reading, new, served, contract)
    part = _part(successor.part, region, old, path, kept_remarks(model, old.values()))
    return RegionSwap(region, module, arguments, contract, replace(successor, part=part), old, _other_paths(model, old))


def _whole_region(model: nn.Module, path: RegionPath, example: Example, outputs: Sequence[str]) -> Region:
    """The region; none that is a part of one that has been swapped."""
    try:
        region = _region(model, path, example, outputs)
    except CaptureError:
        named = path.split(":") if isinstance(path, str) else path
        refuse_parts(model, [one for one in named if one in dict(model.named_modules())])
        raise
    refuse_parts(model, region.members)
    return region


def _region(model: nn.Module, path: RegionPath, example: Example, outputs: Sequence[str]) -> Region:
    """The region, with what a model that stands in eval mode reads of it in train mode alone, as an auxiliary head."""
    traces = traces_of(model, example.run, grad=example.is_step)
    region = find_region(model, traces, path, outputs)
    if model.training:
        return region
    try:
        traces.append(trace(model, example.run, grad=example.is_step, train=True))
        return find_region(model, traces, path, outputs)
    except Exception:  # whatever it raises in the other mode, it was not asked to run there
        return region


def _outputs(region: Region, options: Options, path: RegionPath) -> Sequence[str]:
    """The leaves to serve, by the names that they have in the contract."""
    known = {*region.named, *(_BARE if len(region.named) == 1 else ())}
    unknown = [name for name in options.outputs or () if name not in known]
    if unknown:
        expected = f"names of what its modules return, such as {', '.join(region.read)}"
        found = ", ".join(map(repr, unknown))
        fault = Mismatch("outputs", expected, found, f"outputs={list(region.read)}")
        raise SwapError(f"outputs of `{region_text(path)}` are not what its modules return", [fault])
    if len(region.named) == 1:
        return _BARE
    unserved = [name for name in region.read if options.outputs is not None and name not in options.outputs]
    if unserved:
        expected = f"all that is read: {', '.join(region.read)}"
        fault = Mismatch("outputs", expected, str(options.outputs), f"outputs={list(region.read)}")
        raise SwapError(f"outputs of `{region_text(path)}` that are read cannot be left out", [fault])
    return options.outputs or region.read


_BARE = ["output"]
"""What the one leaf is called in a contract of one."""


class _Members(nn.Module):
    """The members side by side: where they are, of what type and in which mode. It never runs."""

    def __init__(self, members: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.training = next(iter(members.values())).training
        for path, module in members.items():
            self.add_module(path.replace(".", "_"), module)


def _part(part: Part, region: Region, old: Mapping[str, nn.Module], path: RegionPath, kept: Sequence[str]) -> Part:
    kinds = list(dict.fromkeys(type(module).__name__ for module in old.values()))
    remarks = list(part.remarks)
    remarks.append(f"takes the place of {', '.join(region.members)}; the first holds it, the others hand on its levels")
    if region.functions:
        names = ", ".join(dict.fromkeys(region.functions))
        remarks.append(f"functions between them run on: {names}")
    if region.hooked:
        remarks.append(f"hooks on {', '.join(region.hooked)} stay there, and what they are given is served")
    if region.weights_between:
        remarks.append(f"{', '.join(region.weights_between)} of the model has no effect any more")
    remarks += kept
    update = {"old": f"{region_text(path)} ({', '.join(kinds)})", "left_out": (), "remarks": tuple(remarks)}
    return part.model_copy(update=update)


def _other_paths(model: nn.Module, old: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    named = list(model.named_modules(remove_duplicate=False))
    return {path: [other for other, same in named if same is module and other != path] for path, module in old.items()}


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Move the hooks of callers, behind those that the new module has; the old one keeps copies.

    The very containers move, since these are what `handle.remove()` takes a hook out of.
    """
    for kind, told in HOOKS.items():
        moved = callers_hooks(old, kind)
        if moved:
            for name in (kind, *told):
                _move(old, new, name, moved)


def _move(old: nn.Module, new: nn.Module, name: str, moved: dict[int, Any]) -> None:
    container: OrderedDict[int, Any] = vars(old)[name]
    own: OrderedDict[int, Any] = vars(new)[name]
    setattr(old, name, OrderedDict(container))
    for number in [number for number in container if number not in moved]:
        del container[number]
    container.update(own)
    for number in [number for number in container if number in moved]:
        container.move_to_end(number)
    setattr(new, name, container)


def refuse_lost_hooks(model: nn.Module, region: Region) -> None:
    """Refuse hooks that would never be called again: on gradients of members, and on modules inside members.

    Raises:
        SwapError: There are such hooks.
    """
    faults = [fault for path in region.members for fault in _lost(model.get_submodule(path), path)]
    if faults:
        raise SwapError(f"`{faults[0].where}` has a hook that would never be called again", faults)


def _lost(member: nn.Module, path: str) -> Iterator[Mismatch]:
    for name, module in member.named_modules():
        for kind in ("_backward_hooks", "_backward_pre_hooks", *(HOOKS if name else ())):
            for hook in callers_hooks(module, kind, within=member).values():
                where = f"{path}.{name}" if name else path
                called = f"{getattr(hook, '__qualname__', type(hook).__name__)} in {where}.{kind}"
                expected = "hooks on what whole members of the region are given or return"
                yield Mismatch(where, expected, called, "handle.remove()  # and register it anew after the swap")
