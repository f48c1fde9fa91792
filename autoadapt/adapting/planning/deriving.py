"""Deriving: `plan`, which derives a plan from two signatures without calling any torch operation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autoadapt.adapting.asked_options import check_asked
from autoadapt.adapting.layouts import Factored, Refusal, chain, distance, factored
from autoadapt.adapting.matching import match
from autoadapt.adapting.operations import Conversion, Operation, Project, Projecting, Recover, Thin, Thinning
from autoadapt.adapting.pairings import Pairing, Source
from autoadapt.adapting.planning.cell_remarks import what_is_lost
from autoadapt.adapting.planning.frames import frame_remarks
from autoadapt.adapting.planning.hidden_tokens import (
    masks_read,
    returned_masks,
    with_masks,
    with_masks_told,
    with_tokens_behind,
)
from autoadapt.adapting.planning.input_channels import channel_remarks
from autoadapt.adapting.planning.input_routes import CONVERSIONS, Fit, check_fit, route_inputs, too_short
from autoadapt.adapting.planning.input_statistics import statistics_remarks
from autoadapt.adapting.planning.kept_share import kept_share, last_convolution, remark_on_cut
from autoadapt.adapting.planning.padded_levels import stretched_over_padding
from autoadapt.adapting.planning.places import by_places
from autoadapt.adapting.planning.plans import InputRoute, Plan, Route, Tap, one_sample
from autoadapt.adapting.planning.remarks import (
    depth_remarks,
    input_remarks,
    native_remarks,
    size_remarks,
    too_long,
    value_remarks,
)
from autoadapt.adapting.planning.restored_values import held_remarks, with_held
from autoadapt.adapting.planning.sources import (
    costs_of,
    cut_after,
    cut_beside,
    inner_sources,
    not_among,
    output_sources,
    taps_of,
    translated,
    trunk_sources,
)
from autoadapt.adapting.planning.states import state_remarks
from autoadapt.adapting.planning.targets import served, with_channels, with_inputs, within
from autoadapt.adapting.planning.train_outputs import steady_sources, train_remarks
from autoadapt.adapting.planning.unchecked import refuse_contradictions, unchecked_remarks
from autoadapt.adapting.planning.unread_tokens import ask_for_grid, ask_for_grids
from autoadapt.adapting.taps import last_map, worth_taking
from autoadapt.adapting.thinning import in_order, marked_alike, thinned, unmark_points
from autoadapt.contracts.instances import not_a_module
from autoadapt.contracts.signature import InnerOutput, Signature, TensorSpec, Values
from autoadapt.errors import AdaptError, MatchError, PlanError


def plan(
    source: Signature,
    target: Signature,
    *,
    pairs: Mapping[str, str] | None = None,
    outputs: Sequence[str] | None = None,
    project: Projecting = "needed",
    indices: Literal["refuse", "recover"] = "refuse",
    thin: Thinning = "farthest",
    convert_inputs: Collection[Conversion] = CONVERSIONS,
    fit: Fit | None = None,
    nondeterministic: Literal["refuse", "allow"] = "refuse",
    project_bias: bool = True,
) -> Plan:
    """Find the fewest layers that give a module with one signature another one.

    Args:
        source: Signature of the new module.
        target: Signature of the old module: the contract.
        pairs: Sources chosen by the caller, by target path.
        outputs: Serve only these outputs; the others are left out of the container.
        project: `always` puts a projection on every feature leaf, also where the channels agree; `places` does so, too,
            with a map of its own at each place where there are 2 to 16 places at every input size, for heads that
            read all places at once.
        indices: `recover` finds missing indices from coordinates that are exact input points.
        thin: How points are chosen where the new module has more than are wanted: `farthest`, `first`, `even`,
            `random`; `repeat` also where it has fewer.
        convert_inputs: What may be changed of an input that the new module would refuse: `layout` (the order of the
            axes), `channels` (its first convolution reads others), `size` (resized to the nearest legal one); and
            of its values, where both modules tell what they expect of them: `statistics`.
        fit: `pad` brings images to a legal size by zeros below and to the right, so that cells stay where they are,
            `resize` by interpolation. Left out, `pad` for modules that are freed of their size where the old one
            tells where its cells lie (texts do not), `resize` for others.
        nondeterministic: `allow` takes modules that real runs contradicted, on trust of their signatures.
        project_bias: Whether projections have an offset.

    Raises:
        MatchError: An output, or an input of the new module, has no source, or several equally good ones; or `pad`
            would spread levels over the zeros, since one of the modules does not tell where cells lie.
        PlanError: The arguments name outputs that do not exist, or a module is not deterministic.

    Example:
        >>> old = Signature.parse(["f32[B, 64, ceil(H/4), ceil(W/4)]"], inputs="f32[B, 3, H, W]")
        >>> new = Signature.parse("f32[B, 32, ceil(H/4), ceil(W/4)]", inputs="f32[B, 3, H, W]")
        >>> plan(new, old).routes[0].steps
        (Project(op='project', form='conv', source=32, target=64, bias=True, groups=1),)
    """
    for name, given in (("source", source), ("target", target)):
        if not isinstance(given, Signature):
            raise not_a_module(given, name, PlanError, "a Signature")
    choices = {"project": project, "indices": indices, "thin": thin, "nondeterministic": nondeterministic}
    asked = {"pairs": pairs, "outputs": outputs, "convert_inputs": convert_inputs, "project_bias": project_bias}
    check_asked(PlanError, **asked, **choices)
    check_fit(fit)
    if nondeterministic == "refuse":
        refuse_contradictions(source, target, outputs)
    what = _Asked(pairs or {}, outputs, project, indices, thin, convert_inputs, fit)
    made = _from_trunk(source, target, what) or _derived(source, target, what)
    faults = stretched_over_padding(made)
    if faults and fit == "pad":
        raise MatchError("images cannot be padded for these outputs", faults)
    if faults:
        what = replace(what, fit="resize")
        made = _from_trunk(source, target, what) or _derived(source, target, what)
    return made if project_bias else made.model_copy(update={"routes": tuple(map(_bare, made.routes))})


@dataclass(frozen=True)
class _Asked:
    """The arguments of `plan` that decide about its chains."""

    pairs: Mapping[str, str]
    outputs: Sequence[str] | None
    project: Projecting
    indices: Literal["refuse", "recover"]
    thin: Thinning
    convert_inputs: Collection[Conversion]
    fit: Fit | None


def _from_trunk(source: Signature, target: Signature, asked: _Asked) -> Plan | None:
    """The plan for the new module without its head, where that takes more image sizes; None where it will not do."""
    if source.trunk is None:
        return None
    try:
        made = _derived(source.trunk, target, asked)
    except AdaptError:  # the whole module may serve it, or its error is more to the point
        return None
    of_maps = all(factored(spec).strides for spec in made.target.outputs.leaves)
    return made if of_maps or not _makes_vectors(source) else None


def _makes_vectors(source: Signature) -> bool:
    """Whether some output is a vector of fixed length; flattened scores of a sliding head are not."""
    return any(len(spec.dims) == 2 and spec.dims[1].constant is not None for spec in source.outputs.leaves)


@dataclass(frozen=True)
class _Offer:
    """The contract, and every tensor of the new module that may serve it."""

    wanted: Signature
    """The contract, with only the outputs to serve, and sizes that the new module takes."""
    marked: Values
    """Its outputs, with axes of points marked."""
    inputs: tuple[InputRoute, ...]
    sources: list[Source]
    """Outputs and taps."""
    blocks: list[InnerOutput]
    """The inner outputs of the taps."""
    others: list[Source]
    """Sources that are used only if they are named."""
    named: dict[str, str]
    """Names of inner outputs with the very names of targets, by target."""
    first: dict[str, tuple[TensorSpec, Thin | None]]
    """For each output its spec before points are thinned, and the operation that does so."""
    short: dict[str, tuple[int, int]]
    """Axes along which the old module takes shorter inputs: its smallest size, and that of the new one."""


def _offer(source: Signature, target: Signature, asked: _Asked) -> _Offer:
    """The contract as far as it is served, and the tensors of the new module that may serve it."""
    wanted = with_masks_told(with_channels(with_inputs(target, source), source), source)
    wanted = served(wanted, asked.outputs)
    routes = route_inputs(source, wanted, asked.convert_inputs, asked.fit)
    short = too_short(source, wanted, routes)
    longer = {axis: most for axis, most in too_long(source, wanted).items() if wanted.axes[axis].example <= most}
    wanted = within(wanted, {axis: least for axis, (_, least) in short.items()}, longer)
    found, marked = marked_alike(source.outputs, wanted.outputs)
    wanted = wanted.model_copy(update={"outputs": unmark_points(wanted.outputs)})
    offered = source.model_copy(update={"outputs": found})
    sources, thinning = thinned(output_sources(offered, wanted, routes), marked, asked.thin, sequence=in_order(source))
    blocks = worth_taking(source.inner, source.sizes(), source.scores)
    last = last_map([one for one in source.inner if one.name not in source.scores])
    if not source.outputs.leaves and not any(factored(spec).strides for spec in wanted.outputs.leaves):
        blocks += not_among(last, blocks)
    if beyond := not_among(last_convolution(source, wanted, blocks, last), blocks):
        blocks = [*(one.model_copy(update={"listed": False}) for one in blocks), *beyond]  # lists are for pyramids
    on_points = any(leaf.points is not None for leaf in found.leaves)
    taps = inner_sources(blocks, source, wanted, routes, on_points=on_points)
    left = not_among(source.inner, blocks)
    others = inner_sources(left, source, wanted, routes, on_points=on_points) if asked.pairs else []
    others += output_sources(offered, wanted, routes, again=True) if asked.pairs else []
    trunks = {} if asked.pairs else trunk_sources(source, wanted, routes)
    others += trunks.values()
    named = {path: trunk.path for path, trunk in trunks.items()}
    first = {found.path: (found.spec, thinning.get(found.path)) for found in output_sources(source, wanted, routes)}
    return _Offer(wanted, marked, routes, [*sources, *taps], blocks, others, named, first, short)


def _pairings(offer: _Offer, source: Signature, asked: _Asked) -> Sequence[Pairing]:
    """A source for each output, in the order of the contract."""
    wanted, masks = offer.wanted.model_copy(update={"outputs": offer.marked}), returned_masks(offer.wanted)
    if masks:
        wanted = served(wanted, [path for path in wanted.outputs.paths if path not in masks])
    given = [Pairing(path, found, remark="the mask that is given, for its frames") for path, found in masks.items()]
    try:
        made = match(
            wanted,
            offer.sources,
            invariants=translated(source.invariants, offer.inputs),
            pairs=asked.pairs,
            named=offer.named,
            others={other.path: other for other in offer.others},
            indices=asked.indices,
            name=source.name,
        )
        return sorted([*made, *given], key=lambda one: offer.wanted.outputs.paths.index(one.target))
    except MatchError as error:
        if source.unread_tokens and not asked.pairs:
            raise ask_for_grid(source) from error
        raise


def _routes(offer: _Offer, source: Signature, pairings: Iterable[Pairing], always: bool) -> list[Route]:
    """The routes of all pairings."""
    tensors = {found.path: found.tensor for found in (*offer.others, *offer.sources)}
    tensors |= {f"inputs.{path}": factored(spec) for path, spec in offer.wanted.inputs.items()}
    contract = dict(offer.marked.items())
    made = [
        _route(one, tensors, contract, offer.wanted, always, offer.first.get(one.source), source.dilated_by)
        for one in pairings
    ]
    branches = {output.name for output in source.inner if output.is_branch}
    made = [
        route.model_copy(update={"remark": _with_branch(route)}) if route.source in branches else route
        for route in made
    ]
    trailed = {path for mask in source.masks for path in mask.behind}
    made = [with_tokens_behind(route) if route.source in trailed else route for route in made]
    steady = steady_sources(source, [route.source for route in made])
    return [route.model_copy(update={"source": steady.get(route.source, route.source)}) for route in made]


def _with_branch(route: Route) -> str:
    """The remark of a route whose source is a residual branch, where no module reads the sum."""
    told = f"{route.source} is a residual branch: no module reads the sum that it is added to, so that no tap takes it"
    return "; ".join(filter(None, [route.remark, told]))


def _derived(source: Signature, target: Signature, asked: _Asked) -> Plan:
    """The plan, from the offer over pairings and routes to taps and cuts."""
    offer = _offer(source, target, asked)
    made = _routes(offer, source, _pairings(offer, source, asked), asked.project != "needed")
    if asked.project == "places":
        made = [by_places(route, one_sample(target.sizes()), offer.wanted.axes) for route in made]
    taken = taps_of([route.source for route in made], source)
    ask_for_grids(source, taken, asked.pairs or offer.named)
    read = _read(made, taken)
    late = cut_after(source.inner, taken, read)
    beside = cut_beside(source, read, late)
    kept = kept_share(source, read)
    return Plan(
        source=source.model_copy(update={"inner": (), "trunk": None}),
        target=offer.wanted,
        inputs=offer.inputs,
        taps=taken,
        cut=(cut := (*beside, *late)),
        beside=beside,
        cut_costs=costs_of(cut, source.inner, source.sizes().get("B", 1)),
        routes=tuple(_in_order(route, source, offer.wanted) for route in made),
        remarks=_remarks(offer, source, target, made, read, asked.convert_inputs),
        kept=kept,
        cut_remark=remark_on_cut(kept, source, offer.wanted, offer.blocks),
    )


def _remarks(
    offer: _Offer,
    source: Signature,
    target: Signature,
    made: Sequence[Route],
    read: set[str],
    convert_inputs: Collection[Conversion],
) -> tuple[str, ...]:
    """The remarks on more than one output."""
    return (
        *input_remarks(source, offer.wanted, offer.inputs, masks_read(made)),
        *frame_remarks(source, offer.wanted, offer.inputs),
        *size_remarks(source, target, offer.short),
        *depth_remarks(offer.wanted, made),
        *value_remarks(source, offer.wanted),
        *held_remarks(source, offer.wanted, made),
        *state_remarks(source, offer.wanted, made),
        *train_remarks(source, target),
        *native_remarks(source),
        *unchecked_remarks(source, offer.wanted, read),
        *statistics_remarks(source, offer.wanted, convert_inputs),
        *channel_remarks(source, [step for one in offer.inputs for step in one.steps]),
    )


def _read(routes: Iterable[Route], taken: Mapping[str, Tap]) -> set[str]:
    """The sources that are read: all taps; without taps the outputs that routes start from or choose points by."""
    points = {step.points for route in routes for step in route.steps if isinstance(step, Thin)}
    return set(taken) or {name for name in points | {r.source for r in routes} if not name.startswith("inputs.")}


def _route(
    pairing: Pairing,
    sources: Mapping[str, Factored],
    contracts: Mapping[str, TensorSpec],
    target: Signature,
    always: bool,
    first: tuple[TensorSpec, Thin | None] | None = None,
    dilated_by: str = "",
) -> Route:
    """The route of one pairing."""
    contract = contracts[pairing.target]
    if pairing.same_as:
        spec = contract.model_copy(update={"points": None})
        return Route(target=pairing.target, source=pairing.source, specs=(spec,), same_as=pairing.same_as)
    tensor = sources[pairing.source]
    spec, thin = first if first is not None else (tensor.spec, None)
    learned = always and contract.same_as != pairing.source  # an output that is an input is passed on
    is_mask = pairing.target in returned_masks(target)
    steps = _recovering(pairing, tensor, contracts, target) if pairing.recover else ()
    steps = steps if pairing.recover or is_mask else _chained(tensor, contract, learned)
    steps = with_masks(with_held(steps, tensor.spec, contract), tensor.spec, target, pairing.target)
    if thin is not None:
        steps = (thin, *steps)
    made = Route(
        target=pairing.target,
        source=pairing.source,
        specs=(spec,),
        octaves=0.0 if pairing.recover else round(distance(tensor, factored(contract)), 3),
        others=pairing.others,
        remark="; ".join(filter(None, [pairing.remark, what_is_lost(tensor, contract, steps, dilated_by)])),
    )
    return made.with_steps(steps, one_sample(target.sizes()))


def _chained(tensor: Factored, contract: TensorSpec, always: bool) -> tuple[Operation, ...]:
    found = chain(tensor, contract, project=always)
    assert not isinstance(found, Refusal), "only what can be chained is paired"
    return found


def _recovering(
    pairing: Pairing, tensor: Factored, contracts: Mapping[str, TensorSpec], target: Signature
) -> tuple[Operation, ...]:
    """The steps from coordinates to the indices of these points in the input."""
    gathering = next(g for g in target.invariants if g.index == pairing.target)
    turned = chain(tensor, contracts[gathering.result])
    assert not isinstance(turned, Refusal), "the same points serve the coordinates"
    values, axes = gathering.values.removeprefix("inputs."), (gathering.values_axis, gathering.result_axis)
    recover = Recover(values=values, dtype=contracts[pairing.target].dtype, values_axis=axes[0], points_axis=axes[1])
    return (*turned, recover)


def _in_order(route: Route, source: Signature, target: Signature) -> Route:
    """The route with a copy at its end where the old output was contiguous and this one would be a permuted view."""
    contiguous = route.source in source.contiguous or any(
        output.contiguous for output in source.inner if output.name == route.source
    )
    for step in route.steps:
        contiguous = step.stays_contiguous(contiguous)
    if contiguous or route.target not in target.contiguous or route.source.startswith("inputs."):
        return route
    return route.model_copy(update={"made_contiguous": True})


def _bare(route: Route) -> Route:
    steps = [one.model_copy(update={"bias": False}) if isinstance(one, Project) else one for one in route.steps]
    return route.model_copy(update={"steps": tuple(steps), "parameters": sum(step.parameters for step in steps)})
