"""Swaps: replacing submodules of a bigger model; all is checked before anything is set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict, overload

from torch import nn
from typing_extensions import Unpack

from autoadapt.adapting.asked_options import check_asked
from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.operations import Projecting, Thinning
from autoadapt.adapting.planning import CONVERSIONS, Conversion, Fit, ToldChannels, ToldStatistics
from autoadapt.contracts.capturing import Resolution, bind
from autoadapt.contracts.capturing.noted_calls import note_call
from autoadapt.contracts.capturing.regions import RegionPath, region_text
from autoadapt.contracts.instances import check_module, not_a_module
from autoadapt.contracts.randomness import OwnNumbers
from autoadapt.contracts.unfit import off_the_meta_device, without_autocast
from autoadapt.contracts.views import aliased, copy_module, uncompiled, within_wrapper
from autoadapt.errors import AdaptError, Mismatch, SwapError
from autoadapt.showing.progress import Tell, telling
from autoadapt.sources import as_module
from autoadapt.swapping.arriving_statistics import channels_at, statistics_at
from autoadapt.swapping.call_texts import call_text
from autoadapt.swapping.cost_lines import CostLine
from autoadapt.swapping.folding.narrowing import Narrowing
from autoadapt.swapping.folding.refits import Refit, Refitting
from autoadapt.swapping.places import Place, find_places, set_modules
from autoadapt.swapping.rebuilding import Made, rebuilt
from autoadapt.swapping.region_refusals import refuse_parts
from autoadapt.swapping.region_swaps import plan_region
from autoadapt.swapping.region_trials import try_region
from autoadapt.swapping.results import Part, Swap
from autoadapt.swapping.stage_remarks import with_chain_remark, with_stage_remarks
from autoadapt.swapping.successors import Options, Successor, prepare
from autoadapt.swapping.train_reads import with_train_reads
from autoadapt.swapping.trial_runs import by_path, try_out
from autoadapt.swapping.watching import Example, Watched, as_example, watch


class _Options(TypedDict, total=False):
    """The keyword arguments of `swap` but `dry_run`, which decides what comes back."""

    inputs: object
    outputs: Sequence[str] | None
    pairs: Mapping[str, str] | None
    taps: Mapping[str, str] | None
    project: Projecting
    indices: Literal["refuse", "recover"]
    thin: Thinning
    grid: Mapping[str, tuple[int, ...]] | None
    convert_inputs: Collection[Conversion]
    input_statistics: ToldStatistics | None
    channels: ToldChannels | None
    resolution: Resolution | None
    fit: Fit | None
    nondeterministic: Literal["refuse", "allow"]
    project_bias: bool
    refit: Refit
    share: bool
    allow_cost: bool
    max_parameters: int | None


@overload
def swap(
    model: nn.Module,
    path: RegionPath,
    new: nn.Module | str,
    *,
    dry_run: Literal[False] = False,
    **options: Unpack[_Options],
) -> nn.Module: ...
@overload
def swap(
    model: nn.Module, path: RegionPath, new: nn.Module | str, *, dry_run: Literal[True], **options: Unpack[_Options]
) -> Swap: ...


@without_autocast()
def swap(
    model: nn.Module,
    path: RegionPath,
    new: nn.Module | str,
    *,
    inputs: object = None,
    outputs: Sequence[str] | None = None,
    pairs: Mapping[str, str] | None = None,
    taps: Mapping[str, str] | None = None,
    project: Projecting = "needed",
    indices: Literal["refuse", "recover"] = "refuse",
    thin: Thinning = "farthest",
    grid: Mapping[str, tuple[int, ...]] | None = None,
    convert_inputs: Collection[Conversion] = CONVERSIONS,
    input_statistics: ToldStatistics | None = None,
    channels: ToldChannels | None = None,
    resolution: Resolution | None = None,
    fit: Fit | None = None,
    nondeterministic: Literal["refuse", "allow"] = "refuse",
    project_bias: bool = True,
    refit: Refit = False,
    share: bool = True,
    allow_cost: bool = False,
    max_parameters: int | None = None,
    dry_run: bool = False,
) -> nn.Module | Swap:
    """Replace a submodule of a bigger model by another module, adapted to what the rest of the model reads of it.

    The whole model runs as a copy, once with the old and once with the new module, before anything is set; on any
    failure it is as it was.

    Args:
        model: The bigger model; changed in place.
        path: Path of the submodule; a pattern such as `heads.*`, where every match is replaced; or a region that is no
            submodule, replaced by one module: a list of paths, or a span in order of calls, `conv1:layer4`.
        new: What to put there: a module, the name of one (`timm:resnet18`), or the name of a generated layer:
            `linear` (over all axes but the batch, flattened), `channel_linear`, `conv1x1`, `mlp` or `identity`.
        inputs: An example call of the whole model, as for `capture`; or a function of the model that runs a
            training step, so that what its loss reads counts.
        outputs: The outputs to serve, outright; found by watching where left out.
        pairs: Sources chosen by hand, by target path.
        taps: Inner modules of `new` chosen by hand, by target path.
        project: `always` puts a projection on every feature output; `places` does so with a map for each place.
        indices: `recover` finds missing indices from coordinates that are exact input points.
        thin: How points are chosen where there are more than wanted: `farthest`, `first`, `even`, `random`;
            `repeat` also where there are fewer.
        grid: Rows, columns, leading and trailing tokens of token axes that cannot be read.
        convert_inputs: What may be changed of the inputs of `new`: `layout`, `channels`, `size`,
            `statistics`.
        input_statistics: What the whole model is given, `aa.Statistics(mean=..., std=..., order="bgr", range=255)`; or
            also what `new` expects, by `old` and `new`. What the model does to its images before they reach the place
            is seen by running it on images of one colour.
        channels: As for `adapt`: what is in the channels of the image that the whole model is given, which are
            followed to the place; or also of `new`'s.
        resolution: As for `adapt`: a `new` that was built for one image size reads images at their own size where that
            is proven, with `fixed` resized to its own, with `native` or not at all.
        fit: As for `adapt`: `pad` or `resize` to a legal size.
        nondeterministic: `allow` takes modules of which two equal runs did not return the same, or a run at a usual
            size something else than the signature says.
        project_bias: False makes projections without offset.
        refit: `readers`, or True, rebuilds the layers that read the module for the channels of the new one, so that no
            adapter is left between them: as `fold` does where `new` is an adapted module that fits, as one that was
            calibrated, else with the weights that their classes start from, which have to be trained. `shrink` also
            narrows what lies behind them, as one would by hand: a layer whose output has the size of a level and as
            many channels as the old level gets those of the new level. What was rebuilt stands at the new module:
            `model.get_submodule(path).folded`.
        share: Use the storage of `new`'s weights; otherwise copy them. At several places each has its own.
        allow_cost: Consent to generated layers of more parameters than the limit.
        max_parameters: The limit; by default 10 million, and for a generated layer 10 times the old module's.
        dry_run: Change nothing and return the `Swap`. A swap that follows does not capture the modules again, unless
            something about them or their inputs has changed.

    Returns:
        The model; what was done stands at the new module: `model.get_submodule(path).swapped`. With `dry_run` the
        `Swap`.

    Raises:
        SwapError: The swap is refused, and the model is as it was.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 2, 1))
        >>> model = swap(model, "0", nn.Conv2d(3, 5, 2, stride=2), inputs=torch.zeros(1, 3, 16, 16))
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 2, 8, 8])
    """
    check_asked(SwapError, pairs=pairs, taps=taps, outputs=outputs, grid=grid, convert_inputs=convert_inputs)
    choices = {"project": project, "indices": indices, "thin": thin, "nondeterministic": nondeterministic}
    check_asked(SwapError, max_parameters=max_parameters, project_bias=project_bias, refit=refit, **choices)
    new = as_module(new, "new") if isinstance(new, str) and (":" in new or new.endswith(".pt2")) else new
    refit = "readers" if refit is True else refit
    chosen = {**(pairs or {}), **(taps or {})}
    told = (input_statistics, channels, resolution, fit, nondeterministic, project_bias, refit, share, dry_run)
    options = Options(outputs, chosen, project, indices, thin, grid, convert_inputs, *told)
    call = call_text(path, new, options, allow_cost=allow_cost, max_parameters=max_parameters)
    name = type(uncompiled(model)).__name__
    planned: list[Successor] = []
    inner = model
    try:
        _check_kinds(model, path, new)
        inner, path = within_wrapper(model, path)
        with off_the_meta_device(), telling("swap") as tell:
            tell(f"running {name} to see what it reads of {region_text(path)}")
            work = _Work(inner, as_example(inner, inputs), inputs, options, allow_cost, max_parameters, tell, planned)
            made = work.of_places(path, new) if isinstance(path, str) and ":" not in path else work.of_region(path, new)
            refits, costs = work.rebuilt(made)
    except AdaptError as error:
        refusal = refusal_of(region_text(path) if isinstance(path, (str, list, tuple)) else repr(path)[:60], error)
        if dry_run:
            return refused(name, planned, refusal, call)
        raise refusal from error
    parts = tuple(map(_as_built, planned, made.modules))
    if refits is not None:
        parts = (_as_rebuilt(parts[0], made.modules[0], refits),)
    done = Swap(model=name, parts=parts, checks=made.checks, costs=costs, call=call)
    if dry_run:
        return done
    for part, module in zip(parts, made.modules, strict=True):
        module.swapped = done.model_copy(update={"parts": (part,)})  # type: ignore[assignment]
    made.put_in(inner)
    if refits is not None:
        refits.put_in(inner)
    if inputs is not None and not callable(inputs):
        note_call(inner, bind(inner, inputs))
    return model


@dataclass(frozen=True)
class _Work:
    """One swap: all that is done before anything is set. What is planned is noted where the caller sees it."""

    model: nn.Module
    example: Example
    inputs: object
    options: Options
    allow_cost: bool
    max_parameters: int | None
    tell: Tell
    planned: list[Successor]

    @property
    def drawing(self) -> contextlib.AbstractContextManager[object]:
        """While new layers are made: those of a dry run draw none of the caller's random numbers."""
        return OwnNumbers() if self.options.dry_run else contextlib.nullcontext()

    def of_places(self, path: str, new: nn.Module | str) -> Made:
        """One module at each place of a path or pattern."""
        places = find_places(self.model, path)
        refuse_parts(self.model, [place.path for place in places])
        seen = watch(self.model, self.example, [place.path for place in places])

        def known_at(path: str) -> Options:
            statistics = statistics_at(self.model, self.example, path, new, self.options.input_statistics)
            channels = channels_at(self.model, self.example, path, new, self.options.channels)
            return replace(self.options, input_statistics=statistics, channels=channels)

        found = _prepared(places, seen, new, self.options.share, self.tell, known_at)
        found = [with_stage_remarks(self.model, self.example, one) for one in found]
        self.planned.extend(with_chain_remark(self.model, self.example, found) if isinstance(new, nn.Module) else found)
        _refuse_cost(self.planned, self.allow_cost, self.max_parameters)
        self.tell(f"building what takes the place of {path}")
        with self.drawing:
            modules = [successor.build() for successor in self.planned]
        self.tell(f"running {type(self.model).__name__} with the new module")
        self.planned[:] = with_train_reads(self.model, self.example, self.planned, seen)
        checks = try_out(self.model, self.example, self.planned, modules, seen)

        def put_in(model: nn.Module, modules: Sequence[nn.Module] = modules) -> None:
            set_modules(model, by_path(self.planned, modules))

        def tried() -> nn.Module:
            copied = copy_module(self.model, aliased)
            put_in(copied, [copy_module(module, aliased) for module in modules])
            return copied

        return Made(modules, tuple(checks), put_in, [one.path for one in places], tried)

    def of_region(self, path: RegionPath, new: nn.Module | str) -> Made:
        """One module in the place of those of a region, and stand-ins."""
        region = plan_region(self.model, path, new, self.example, self.options)
        self.planned.append(region.successor)
        _refuse_cost(self.planned, self.allow_cost, self.max_parameters)
        self.tell(f"building what takes the place of {region_text(path)}")
        with self.drawing:
            parts = region.build()
        self.tell(f"running {type(self.model).__name__} with the new module")
        checks = try_region(self.model, self.example, self.inputs, region, parts)

        def tried() -> nn.Module:
            copied = copy_module(self.model, aliased)
            parts.copied(lambda module: copy_module(module, aliased)).put_in(copied)
            return copied

        return Made([parts.net], tuple(checks), parts.put_in, region.region.members, tried)

    def rebuilt(self, made: Made) -> tuple[Refitting | Narrowing | None, tuple[CostLine, ...]]:
        """What is rebuilt of the rest of the model, if that is asked for, and what all costs."""
        if self.options.refit:
            self.tell(f"rebuilding what reads {self.planned[0].part.path}")
        with self.drawing:
            return rebuilt(self.model, self.example, self.inputs, self.planned[0], made)


def _as_built(successor: Successor, module: nn.Module) -> Part:
    """The part with the plan as it was built, which tells what was cut and what takes no gradient."""
    made = module.plan if isinstance(module, AdaptedModule) else successor.part.plan
    return successor.part.model_copy(update={"plan": made})


def _as_rebuilt(part: Part, net: nn.Module, refits: Refitting | Narrowing) -> Part:
    """The part without the adapters that nothing needs any more."""
    assert isinstance(net, AdaptedModule), "a refit has one"
    made = refits.plan(net)
    fewer = part.generated - made.parameters
    after = {"generated": made.parameters, "parameters_after": part.parameters_after - fewer}
    return part.model_copy(update={"plan": made, "rebuilt": refits.folding, **after})


def _check_kinds(model: object, path: object, new: object) -> None:
    listed = isinstance(path, (list, tuple)) and path and all(isinstance(one, str) for one in path)
    if not isinstance(path, str) and not listed:
        remedy = 'swap(model, "backbone", ...)  # or a region: ["conv1", "layer1"], "conv1:layer1"'
        fault = Mismatch("path", "the path of a submodule, a pattern, or a list of paths", repr(path)[:60], remedy)
        raise SwapError("this names no part of a model", [fault])
    check_module(model, "model", SwapError)
    if not isinstance(new, (nn.Module, str)):
        raise not_a_module(new, "new", SwapError, "a module, the name of one, or of a generated layer such as linear")
    if new is model:
        fault = Mismatch("new", "another module", "the whole model itself", "pass the part that is meant")
        raise SwapError("a model cannot stand inside itself", [fault])


def _prepared(
    places: list[Place],
    seen: Watched,
    new: nn.Module | str,
    share: bool,
    tell: Tell,
    options_at: Callable[[str], Options],
) -> list[Successor]:
    """A successor for each place; what is wrong with any of them is said at once."""
    found, faults, summary = [], list[Mismatch](), ""
    own = len(places) > 1 and isinstance(new, nn.Module)
    for place in places:
        tell(f"capturing {place.path} and what takes its place")
        try:
            options = replace(options_at(place.path), share=share and not own)
            found.append(prepare(place, seen.readings[place.path], new, options))
        except AdaptError as error:
            if len(places) == 1:
                raise
            summary = summary or error.summary
            faults += [replace(fault, where=f"{place.path}: {fault.where}") for fault in error.mismatches]
            faults += [] if error.mismatches else [Mismatch(place.path, "a plan", error.summary)]
    if faults:
        raise SwapError(summary, faults)
    return found


_LIMIT = 10_000_000


def _refuse_cost(planned: list[Successor], allowed: bool, limit: int | None) -> None:
    """Ask before large layers are generated; nothing is built yet."""
    faults = []
    for one in planned:
        part = one.part
        most = limit if limit is not None else _LIMIT
        if limit is None and not isinstance(one.new, nn.Module):
            most = min(most, 10 * part.parameters_before)
        if part.generated > most:
            before = f"{part.parameters_before:,} in the old module"
            found = f"{part.generated:,} parameters ({part.new}), against {before}"
            faults.append(Mismatch(part.path, f"at most {most:,} generated parameters", found, "allow_cost=True"))
    if faults and not allowed:
        total = sum(one.part.generated for one in planned)
        raise SwapError(f"the generated layers have {total:,} parameters, more than the limit", faults)


def refusal_of(path: str, error: AdaptError) -> SwapError:
    """The error of a step as one of the swap."""
    faults = [replace(fault, remedy=fault.remedy.replace("adapt(...", "swap(...")) for fault in error.mismatches]
    summary = error.summary if isinstance(error, SwapError) else f"`{path}` is not swapped: {error.summary}"
    return SwapError(summary, faults)


def refused(name: str, planned: Sequence[Successor], refusal: SwapError, call: str) -> Swap:
    """What a dry run returns of a swap that is refused."""
    parts = tuple(one.part for one in planned)
    return Swap(model=name, parts=parts, refused=refusal.summary, faults=tuple(refusal.mismatches), call=call)
