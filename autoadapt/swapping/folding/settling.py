"""Settling: which outputs are folded into what, which stay as they are, and the model that comes of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule, own_attributes, with_plan
from autoadapt.adapting.operations import Ones, Operation, Project, specs_along
from autoadapt.adapting.planning import Plan, Route
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.costs import multiply_adds_of
from autoadapt.contracts.signature import TensorSpec
from autoadapt.contracts.views import aliased, copy_module, eval_copy
from autoadapt.errors import AdaptError
from autoadapt.swapping.folding.attention import attention_of, opened
from autoadapt.swapping.folding.foldings import Folding, Front, Reader, Stay, next_number, put_layers
from autoadapt.swapping.folding.following import NONE_WIDE, Call, Readings, Wide, readings
from autoadapt.swapping.folding.other_runs import Run
from autoadapt.swapping.folding.reading_layers import is_reader, merged, needs_ones
from autoadapt.swapping.folding.rerouting import Reroute
from autoadapt.swapping.folding.statements import Statement, level_statement
from autoadapt.swapping.places import set_modules
from autoadapt.swapping.stand_ins import passes_of


def projected(plan: Plan) -> list[str]:
    """The outputs that have a projection."""
    return [route.target for route in plan.routes if _steps_of(route)]


def changing_axes(plan: Plan) -> dict[str, tuple[int, int]]:
    """The outputs that can be handed on without projections: which axis holds channels, and how many there are."""
    found = {route.target: route for route in plan.routes if _steps_of(route) and _unfit(route) is None}
    axes = {target: _channel_axis(route) for target, route in found.items()}
    return {
        target: (axis, _projects(found[target]).source)
        for target, axis in axes.items()
        if axis is not None and _projects(found[target]).source != _projects(found[target]).target
    }


def _projects(route: Route) -> Project:
    project = route.steps[_steps_of(route)[0]]
    assert isinstance(project, Project), "found as one"
    return project


def _steps_of(route: Route) -> list[int]:
    return [index for index, step in enumerate(route.steps) if isinstance(step, Project)]


@dataclass(frozen=True)
class Settled:
    """What is folded, and what stays."""

    levels: dict[str, Statement]
    found: Readings
    stays: dict[str, Stay]


@dataclass(frozen=True)
class Settling:
    """One model with an adapted module, and what is done with it."""

    model: nn.Module
    path: str
    net: AdaptedModule
    given: Arguments
    """The example call."""
    runs: Sequence[Run]
    is_untrained: bool = False
    """Whether readers start from new weights in place of the merged ones."""
    faults: dict[tuple[int, bool], str] = field(default_factory=dict)
    """What is wrong with folding by certain readings, by their `id` and whether the model may be heavier."""
    _seen: dict[object, Readings] = field(default_factory=dict)
    """The readings of all runs, which are the same for the same outputs."""

    @cached_property
    def multiply_adds(self) -> int:
        """What the example call costs before anything is folded."""
        return multiply_adds_of(eval_copy(self.model), self.given)

    @cached_property
    def opened(self) -> nn.Module:
        """The model with its attention opened, in which outputs are followed to layers."""
        return opened(self.model, self.path, self.runs[0].of)

    def settle(
        self, wanted: Collection[str], kept: Mapping[str, Stay] = MappingProxyType({}), wide: Wide = NONE_WIDE
    ) -> Settled:
        """Follow outputs to what reads them, and let those stay that something reads that needs their projections.

        Args:
            wanted: The outputs.
            kept: Those among them that stay in any case.
            wide: Functions that see as many channels as before in a shape, by output.
        """
        routes = {route.target: route for route in self.net.plan.routes if route.target in wanted}
        unfit = {target: stay for target, route in routes.items() if (stay := _unfit(route)) is not None}
        stays = unfit | dict(kept)
        levels = {target: self._statement(route) for target, route in routes.items() if target not in stays}
        fronts: set[str] = set()
        while True:
            found = self._readings(levels, fronts, wide)
            if not found.obstacles:
                return Settled(levels, found, stays)
            for level, met in found.obstacles.items():
                module = met[0].module if {one.module for one in met} == {met[0].module} else ""
                is_read = any(level in stated.levels for stated in found.readers.values())
                if module and is_read and module not in fronts:
                    fronts.add(module)
                    continue
                named = ", ".join(found.read[level])
                stays[level] = Stay(output=level, reader=named, why=next((one.why for one in met if one.why), ""))
                del levels[level]

    def _readings(self, levels: Mapping[str, Statement], fronts: Collection[str], wide: Wide) -> Readings:
        named = {level: frozenset(wide[level]) for level in levels if wide.get(level)}
        key = tuple(levels), frozenset(fronts), frozenset(named.items())
        if key not in self._seen:
            given = self.opened, self.path
            found, *others = (
                readings(*given, run.call, dict(levels), fronts, wide=named, in_training=run.in_training)
                for run in self.runs
            )
            for seen in others:
                found.merge(seen)
            self._seen[key] = found
        return self._seen[key]

    def _statement(self, route: Route) -> Statement:
        axis = _channel_axis(route)
        assert axis is not None, "one that is fit"
        layer = _projection(self.net, route.target)
        weight, bias = layer.get_parameter("weight").detach().cpu().flatten(1), getattr(layer, "bias", None)
        offset = weight.new_zeros(len(weight)) if bias is None else bias.detach().cpu()
        return level_statement(route.target, axis, weight, offset)

    def made(self, settled: Settled) -> nn.Module:
        """The folded model."""
        made = copy_module(self.model, aliased)
        self.put(made, settled)
        return made

    def put(self, made: nn.Module, settled: Settled) -> Folding:
        """Fold in place.

        Args:
            made: A copy of the model, or the one that this is a copy of.
            settled: What to fold into what.
        """
        readers = {path: (self.opened.get_submodule(path), one) for path, one in settled.found.readers.items()}
        needed = [one for layer, stated in readers.values() for one in _with_ones(stated, needs_ones(layer))]
        needed += [one for stated, _ in settled.found.fronts.values() for one in _with_ones(stated, False)]
        ones = tuple(level for level in settled.levels if level in needed)
        weights = {path: merged(layer, stated, ones) for path, (layer, stated) in readers.items()}
        folding = Folding(
            number=next_number(self.model),
            outputs=tuple(settled.levels),
            ones=ones,
            readers=tuple(self._reader(path, readers[path][1], ones, *weights[path]) for path in readers),
            opened=attention_of(self.model, readers),
            fronts=tuple(_front(path, *front, ones) for path, front in settled.found.fronts.items()),
            reroutes={
                path: tuple(_reroute(call, ones) for call in calls) for path, calls in settled.found.reroutes.items()
            },
            stays=tuple(settled.stays.values()),
            unread=tuple(level for level in settled.levels if not settled.found.read[level]),
            unseen=self._unseen(settled.found),
            untrained=(*readers, *(f"{path}.project" for path in settled.found.fronts)) if self.is_untrained else (),
        )
        put_layers(made, folding)
        for path, (weight, offset_O) in weights.items():
            _fill(made.get_submodule(path), weight, offset_O)
        for path, (stated, _) in settled.found.fronts.items():
            _fill(made.get_submodule(f"{path}.project"), *stated.split(ones))
        hand_on(made, self.path, folding)
        return folding

    def _unseen(self, found: Readings) -> tuple[str, ...]:
        named = {path: one for path, one in self.model.named_modules() if not f"{path}.".startswith(f"{self.path}.")}
        return tuple(path for path, one in named.items() if is_reader(one) and path not in found.calls)

    def _reader(
        self, path: str, stated: Statement, ones: Collection[str], weight: torch.Tensor, offset_O: torch.Tensor
    ) -> Reader:
        layer = self.opened.get_submodule(path)
        paths = [name for name, one in self.opened.named_modules(remove_duplicate=False) if one is layer]
        has_bias = getattr(layer, "bias", None) is not None or bool(offset_O.count_nonzero())
        channels = weight.shape[0 if "Transpose" in type(layer).__name__ else 1]
        of_ones = stated.outer * stated.inner * sum(piece.merged for piece in stated.pieces if piece.level in ones)
        others = (one for one in paths if one != path)
        return Reader(paths=(path, *others), channels=channels, has_bias=has_bias, ones=of_ones)


def hand_on(made: nn.Module, path: str, folding: Folding) -> None:
    """Let the adapted module of a model hand on some outputs without their projections, and note what was folded."""
    before = made.get_submodule(path)
    assert isinstance(before, AdaptedModule), "found as one"
    folded = without_projections(before, folding)
    passes = passes_of(before)
    for name, value in own_attributes(before).items():  # as layers in a list know their places
        vars(folded).setdefault(name, value)
    if passes is not None:
        passes.take_over(folded)
    vars(folded)["folded"] = folding
    paths = [name for name, one in made.named_modules(remove_duplicate=False) if one is before]
    set_modules(made, dict.fromkeys(paths, folded))


def _with_ones(stated: Statement, is_padded: bool) -> list[str]:
    """The outputs whose offsets come out differently at borders."""
    found = stated.offsets().items()
    return [level for level, (offset_D, same) in found if (is_padded or not same) and bool(offset_D.count_nonzero())]


def _front(path: str, stated: Statement, dims: int, ones: Collection[str]) -> Front:
    target, source = stated.split(ones)[0].shape
    return Front(path=path, source=source, target=target, dims=dims, axis=stated.axis)


def _reroute(call: Call, ones: Collection[str]) -> Reroute:
    channels, *also = (
        tuple(sum((piece.channels + (piece.level in ones)) * piece.merged for piece in pieces) for _, pieces in given)
        for given in call.given
    )
    told = {name: value for name, value in vars(call).items() if name != "given"}
    return Reroute.model_validate({**told, "axis": call.given[0][0][0], "channels": channels, "also": also})


def _fill(layer: nn.Module, weight: torch.Tensor, offset_O: torch.Tensor) -> None:
    with torch.no_grad():
        own = layer.get_parameter("weight")
        own.copy_(weight.reshape(own.shape))
        if getattr(layer, "bias", None) is not None:
            bias = layer.get_parameter("bias")
            layer.bias = nn.Parameter(bias.double() + offset_O.to(bias.device), requires_grad=bias.requires_grad)
            layer.bias.data = layer.bias.data.to(bias.dtype)


def _unfit(route: Route) -> Stay | None:
    """Why an output cannot be folded whatever reads it."""
    project = _projects(route)
    if project.groups > 1:
        why = "its reader has one weight"
        return Stay(output=route.target, reader=f"{project}, a map for each place", why=why)
    if _channel_axis(route) is None:
        return Stay(output=route.target, reader="channels merged with another axis")
    return None


def _channel_axis(route: Route) -> int | None:
    """Where the channels of a projection are in the output; None where they are merged with others."""
    index = _steps_of(route)[0]
    try:
        plain, other = _specs(route, index, 0), _specs(route, index, 1)
    except AdaptError:
        return None
    changed = [i for i, (left, right) in enumerate(zip(plain.dims, other.dims, strict=True)) if left != right]
    return changed[0] if len(changed) == 1 else None


def _specs(route: Route, index: int, extra: int) -> TensorSpec:
    """The output of a route if its projection had some channels more."""
    project = _projects(route)
    wider = project.model_copy(update={"target": project.target + extra})
    return specs_along(route.specs[index], [wider, *route.steps[index + 1 :]])[-1]


def _projection(net: AdaptedModule, target: str) -> nn.Module:
    adapter = list(net.adapters.children())[projected(net.plan).index(target)]
    layer: nn.Module = adapter.project
    return layer


def without_projections(net: AdaptedModule, folding: Folding) -> AdaptedModule:
    """The adapted module without the projections that were folded; other adapters are kept."""
    targets, ones = folding.outputs, folding.ones
    routes = [
        _route_without(route, route.target in ones) if route.target in targets else route for route in net.plan.routes
    ]
    specs = {route.target: route.specs[-1] for route in routes if route.target in targets}
    outputs = net.plan.target.outputs
    leaves = tuple(specs.get(path, spec) for path, spec in outputs.items())
    contract = net.plan.target.model_copy(update={"outputs": outputs.model_copy(update={"leaves": leaves})})
    changed = net.plan.model_copy(update={"routes": tuple(routes), "target": contract})
    return with_plan(net, changed)


def _route_without(route: Route, has_ones: bool) -> Route:
    index = _steps_of(route)[0]
    axis = 1 if _projects(route).form == "conv" else len(route.specs[index].dims) - 1
    instead: list[Operation] = [Ones(axis=axis)] if has_ones else []
    return route.with_steps([*route.steps[:index], *instead, *route.steps[index + 1 :]])
