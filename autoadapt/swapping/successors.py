"""Successors: the module that takes an old one's place, made to fit and to take over how the old one stood."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule, built
from autoadapt.adapting.given_contracts import settled_already
from autoadapt.adapting.operations import Projecting, Thinning
from autoadapt.adapting.planning import (
    CONVERSIONS,
    Conversion,
    Fit,
    Plan,
    ToldChannels,
    ToldStatistics,
    named_outputs,
    plan,
    with_channels_told,
    with_statistics,
)
from autoadapt.adapting.thinning import mark_points
from autoadapt.contracts.capturing import Arguments, Resolution, capture, capture_native, capture_source
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.trees import Slot
from autoadapt.contracts.views import duplicate, view
from autoadapt.errors import MatchError, Mismatch, SwapError
from autoadapt.swapping.device_and_mode import move, take_over
from autoadapt.swapping.dry_runs import captured_once
from autoadapt.swapping.folding.refits import Refit
from autoadapt.swapping.free_outputs import free_outputs
from autoadapt.swapping.places import Place
from autoadapt.swapping.read_attributes import Surface, find_surface
from autoadapt.swapping.readings import Reading
from autoadapt.swapping.reduced_signatures import fixed, reduced, without_objects
from autoadapt.swapping.replacements import Replacement, as_kind
from autoadapt.swapping.results import Part
from autoadapt.swapping.spared_outputs import with_spared


@dataclass(frozen=True)
class Options:
    """What the caller asked for."""

    outputs: Sequence[str] | None = None
    pairs: Mapping[str, str] = field(default_factory=dict)
    project: Projecting = "needed"
    indices: Literal["refuse", "recover"] = "refuse"
    thin: Thinning = "farthest"
    grid: Mapping[str, tuple[int, ...]] | None = None
    convert_inputs: Collection[Conversion] = CONVERSIONS
    input_statistics: ToldStatistics | None = None
    """What reaches the place, and what the new module expects, as far as these are told."""
    channels: ToldChannels | None = None
    """What is in the channels that reach the place, and in those that the new module reads."""
    resolution: Resolution | None = None
    fit: Fit | None = None
    nondeterministic: Literal["refuse", "allow"] = "refuse"
    project_bias: bool = True
    refit: Refit = False
    share: bool = True
    dry_run: bool = False


@dataclass(frozen=True)
class Successor:
    """What takes a place: its facts, and how to make it once these are agreed to."""

    place: Place
    part: Part
    new: nn.Module | Replacement
    surface: Surface
    escaped: Mapping[str, Sequence[str]]
    """Where outputs stood in what the whole model returned."""
    refit: Refit = False
    is_dry_run: bool = False

    @property
    def left_out_places(self) -> list[str]:
        """Where outputs that are left out stood in what the whole model returned."""
        return [place for path in self.part.left_out for place in self.escaped.get(path, ())]

    @property
    def stands_itself(self) -> bool:
        """Whether the new module is an adapted one that fits as it is, and keeps its own adapters."""
        return isinstance(self.new, AdaptedModule) and self.part.plan is not None and _is_bare(self.part.plan)

    def with_remarks(self, *remarks: str) -> Successor:
        """The same with more to say."""
        return replace(self, part=self.part.model_copy(update={"remarks": (*self.part.remarks, *remarks)}))

    def build(self) -> nn.Module:
        """Make the module, in the mode, on the device, of the dtype and memory format of the old one."""
        old = self.place.module
        with torch.inference_mode(False), torch.device("cpu"):
            module = self.new.build() if isinstance(self.new, Replacement) else self.new
        if isinstance(self.new, Replacement):
            move(module, old)
        net = module if self.part.plan is None else built(module, self.part.plan, like=old)
        if self.stands_itself:
            net = net.get_submodule("backbone")
        self.surface.put_on(net)
        take_over(net, old, is_generated=isinstance(self.new, Replacement))
        return net


def prepare(
    place: Place, reading: Reading, new: nn.Module | str, options: Options, contract: Signature | None = None
) -> Successor:
    """Capture the old module in place and plan how the new one serves what is read of it; nothing is built.

    Args:
        place: Where the old module stands.
        reading: How it is called, and what is read of it.
        new: What takes its place.
        options: What the caller asked for.
        contract: What the old module returns, if that is known; captured if left out.

    Raises:
        AdaptError: It cannot be served; the error says what and why.
    """
    surface, faults = find_surface(place.module, reading.attributes, reading.methods, place.path)
    if faults:
        raise SwapError(f"the rest of the model reads `{faults[0].where}`", faults)
    arguments = reading.calls[0]
    target = contract
    if target is None:
        target = captured_once(place.module, arguments, lambda: capture(place.module, arguments), keep=options.dry_run)
    target = target.model_copy(update={"outputs": mark_points(target.outputs)})
    if options.outputs is not None:
        target = without_objects(with_spared(target, place.module, arguments))
    wanted = _wanted(target, reading, options.outputs)
    if isinstance(new, str):
        return _generated(place, reading, as_kind(new), target, wanted, surface)
    module = _moved(new, place.module, options.share)
    capturing = functools.partial(capture_source, target=target, inputs=_call(arguments), inner=True, grid=options.grid)
    source = captured_once(
        new,
        arguments,
        lambda: capture_native(module, target, capturing, resolution=options.resolution),
        keep=options.dry_run,
        besides=[place.module, str(target.model_dump()), options.grid, options.resolution],
    )
    options = replace(options, pairs=options.pairs or settled_already(new, source, target))
    source, known = with_statistics(source, target, options.input_statistics)
    source, known = with_channels_told(source, known, options.channels)
    try:
        made, free = _served(source, known, wanted, options, reading.escaped)
    except MatchError as error:
        raise _with_inner_places(_without_disproved(error, reading), reading, wanted) from error
    after = sum(p.numel() for p in module.parameters()) + made.parameters - made.saved.parameters
    part = _part(place, reading, target, made, type(new).__name__, wanted, free)
    part = part.model_copy(update={"says": surface.names, "parameters_after": after})
    return Successor(place, part, module, surface, reading.escaped, options.refit, options.dry_run)


def _without_disproved(error: MatchError, reading: Reading) -> MatchError:
    """Without the remedy to leave outputs out "if nobody reads" them, where the run has shown that they are read."""
    faults = []
    for fault in error.mismatches:
        lines = fault.remedy.splitlines()
        kept = [line for line in lines if "  # if nobody reads " not in line or fault.where not in reading.read]
        faults.append(replace(fault, remedy="\n".join(kept) or "another module in its place"))
    return MatchError(error.summary, faults)


def _with_inner_places(error: MatchError, reading: Reading, wanted: Sequence[str]) -> MatchError:
    """Where a leaf has no source but the others come from one module inside, that one can be swapped instead."""
    faulty = {fault.where for fault in error.mismatches}
    inner = {reading.inside.get(path, "") for path in wanted if path not in faulty}
    if len(inner) != 1 or "" in inner:
        return error
    served = ", ".join(path for path in wanted if path not in faulty)
    remedy = f'swap(model, "{inner.pop()}", ...)  # a module inside, which makes {served}'
    faults = [replace(f, remedy=f"{remedy}\n{f.remedy}".rstrip()) for f in error.mismatches]
    return MatchError(error.summary, faults)


def _call(arguments: Arguments) -> object:
    """The arguments in the form in which callers give them."""
    values = arguments.values
    return tuple(values.values()) if arguments.positional == len(values) else dict(values)


def _wanted(target: Signature, reading: Reading, outputs: Sequence[str] | None) -> list[str]:
    """The outputs that must be served: those that are named, else those that are read, else all."""
    known = target.outputs.paths
    if outputs is None:
        return [path for path in known if path in reading.read] or list(known)
    return named_outputs(known, outputs)


def _served(
    source: Signature, target: Signature, wanted: Sequence[str], options: Options, escaped: Collection[str]
) -> tuple[Plan, list[str]]:
    """The plan that serves what is wanted, and what else costs nothing; and the paths of the latter.

    What nobody reads and nobody gets costs something as soon as more of the new module has to run for it: its
    parameters would be trained by nothing.
    """

    def planned(keep: Sequence[str]) -> Plan:
        return plan(
            source,
            reduced(target, keep),
            pairs={path: choice for path, choice in options.pairs.items() if path in keep or path not in known},
            project=options.project,
            indices=options.indices,
            thin=options.thin,
            convert_inputs=options.convert_inputs,
            fit=options.fit,
            nondeterministic=options.nondeterministic,
            project_bias=options.project_bias,
        )

    known = target.outputs.paths
    least = planned(wanted)
    optional = [] if options.outputs is not None else [path for path in known if path not in wanted]
    while optional:
        try:
            most = planned([path for path in known if path in wanted or path in optional])
        except MatchError as error:
            faulty = {fault.where for fault in error.mismatches}
            left = [path for path in optional if path not in faulty]
        else:
            free = free_outputs(most, source, target, wanted, escaped)
            left = [path for path in optional if path in free]
            if left == optional and all(route in most.routes for route in least.routes):
                return most, left
        if left == optional:
            break
        optional = left
    return least, []


def _part(
    place: Place,
    reading: Reading,
    target: Signature,
    made: Plan | None,
    name: str,
    wanted: Sequence[str],
    free: Sequence[str],
) -> Part:
    old = place.module
    missing = [path for path in target.outputs.paths if path not in (*wanted, *free)]
    return Part(
        path=place.path,
        also_at=place.also_at,
        old=type(old).__name__,
        new=name,
        plan=made,
        calls=len(reading.calls),
        read=tuple(wanted),
        free=tuple(free),
        left_out=tuple(missing),
        invariants=made.target.invariants if made is not None else (),
        parameters_before=sum(p.numel() for p in old.parameters()),
        parameters_after=0,
        generated=made.parameters if made is not None else 0,
        remarks=tuple(_remarks(old, made)),
    )


def _remarks(old: nn.Module, made: Plan | None) -> list[str]:
    remarks = []
    hooks = len(old._forward_hooks) + len(old._forward_pre_hooks)
    if hooks:
        remarks.append(f"{hooks} hooks of the old module are not carried over")
    grads = {p.requires_grad for p in old.parameters()}
    if grads == {False} and made is not None and made.parameters:
        remarks.append(
            "the old module was frozen, so the new backbone is; its adapters start from random weights and train"
        )
    if len(grads) == 2:
        remarks.append("part of the old module was frozen; the new one takes this over where names agree")
    return remarks


def _is_bare(made: Plan) -> bool:
    """Whether a plan changes nothing: every output, and every input, is handed on as it is."""
    routes = all(route.source == route.target and not route.steps for route in made.routes)
    inputs = not any(one.steps for one in made.inputs)
    return routes and inputs and not made.taps and len(made.routes) == len(made.source.outputs.paths)


def _generated(
    place: Place, reading: Reading, kind: str, target: Signature, wanted: Sequence[str], surface: Surface
) -> Successor:
    """A generated layer between the shapes of the first input and of the one output that is read."""
    inputs = [(path, spec) for path, spec in target.inputs.items() if spec.is_floating]
    if len(wanted) != 1 or not inputs:
        fault = Mismatch(place.path, "one output that is read", ", ".join(wanted), "swap in a module of your own")
        raise SwapError(f"a generated layer serves one output, and `{place.path}` has {len(wanted)}", [fault])
    sizes = target.sizes()
    path, spec = inputs[0]
    layer = Replacement(
        kind=as_kind(kind), source=spec.shape(sizes)[1:], target=target.outputs[wanted[0]].shape(sizes)[1:]
    )
    if why := layer.refusal():
        fault = Mismatch(place.path, f"{spec} -> {target.outputs[wanted[0]]}", why, 'swap(..., "linear")')
        raise SwapError(f"{kind} cannot take the place of `{place.path}`", [fault])
    contract = target
    if kind == "linear":
        inner = {axis for dim in (*spec.dims[1:], *target.outputs[wanted[0]].dims[1:]) for axis in dim.axes}
        contract = fixed(target, sorted(inner & set(target.axes)))
    bare = target.outputs.tree == Slot() and len(target.inputs.leaves) == 1
    alone = bare and not (surface.methods or surface.properties) and _fits(layer, contract, wanted[0], path)
    made = None if alone else _wrapped(layer, contract, wanted, path)
    part = _part(place, reading, target, made, str(layer), wanted, [])
    generated = layer.parameters + (made.parameters if made is not None else 0)
    remarks = [*part.remarks]
    if contract is not target and contract.axes.keys() != target.axes.keys():
        gone = ", ".join(f"{axis} = {sizes[axis]}" for axis in target.axes if axis not in contract.axes)
        remarks.append(f"at {gone} only")
    unused = [other for other in target.inputs.paths if other != path]
    if unused:
        remarks.append(f"the generated layer sees {path} only, not {', '.join(unused)}")
    update = {"says": surface.names, "generated": generated, "parameters_after": generated, "remarks": tuple(remarks)}
    return Successor(place, part.model_copy(update=update), layer, surface, reading.escaped)


def _fits(layer: Replacement, contract: Signature, wanted: str, path: str) -> bool:
    """Whether a layer alone keeps the contract: what it does not mix stays as it comes in."""
    given, made = contract.inputs[path], contract.outputs[wanted]
    if given.dtype != made.dtype or given.dims[0] != made.dims[0]:
        return False
    if layer.kind == "linear":
        return True
    first = layer.kind == "conv1x1" or len(layer.source) >= 3
    axis = 1 if first else len(given.dims) - 1
    return len(given.dims) == len(made.dims) and all(
        left == right for i, (left, right) in enumerate(zip(given.dims, made.dims, strict=True)) if i != axis
    )


def _wrapped(layer: Replacement, contract: Signature, wanted: Sequence[str], path: str) -> Plan:
    """The plan that puts a layer's output into the old module's container; the layer itself is made on meta."""
    with torch.device("meta"):
        module, example = layer.build(), torch.empty(contract.inputs[path].shape(contract.sizes()))
    return plan(capture(module, example), reduced(contract, wanted))


def _moved(new: nn.Module, old: nn.Module, share: bool) -> nn.Module:
    """Another set of module objects over the new one's weights, where and of what dtype the old one is."""
    module = view(new) if share else duplicate(new)
    move(module, old)
    return module
